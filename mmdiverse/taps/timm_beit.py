"""Tap for timm's Beit."""
from dataclasses import replace

from timm.models.beit import Attention, Beit

from ..registry import TAPS
from .timm import POINTS, TimmTap


@TAPS.register_module()
class TimmBeitTap(TimmTap):
    """Reads timm's ``Beit`` (BEiT, BEiT v2), with relative positions in its scores."""

    models = (Beit, )
    attentions = (Attention, )
    points = replace(POINTS, embedding=('patch_embed', 'cls_token', 'pos_embed', 'rel_pos_bias'))
