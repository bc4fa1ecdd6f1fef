"""Taps: where a backbone family keeps its tokens, queries, keys and weights."""
from .base import Tap, TapPoints, build_tap
from .swin import SwinTransformerTap
from .timm import TimmVisionTransformerTap
from .vit import VisionTransformerTap

__all__ = ['SwinTransformerTap', 'Tap', 'TapPoints', 'TimmVisionTransformerTap',
           'VisionTransformerTap', 'build_tap']
