"""Tap for MMPretrain's ViTEVA02."""
from mmpretrain.models.backbones import ViTEVA02
from mmpretrain.models.backbones.vit_eva02 import AttentionWithRoPE
from torch import nn

from ..registry import TAPS
from .base import Tap, TapPoints, fused_qkv_matrices
from .vit import VisionTransformerTap


@TAPS.register_module()
class ViTEVA02Tap(VisionTransformerTap):
    """Reads MMPretrain's ``ViTEVA02``, whose attention rotates queries and keys by their place.

    Of its gated MLP (SwiGLU), ``fc1`` is what is gated, not the gates.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'cls_token', 'pos_embed', 'pre_norm'),
        attention='attn',
        heads='attn',
        matrices={**fused_qkv_matrices('attn.qkv', 'attn.proj', 'mlp.w12', 'mlp.w3'),
                  'fc1': ('mlp.w12', (1, 2))})  # below the gates
    attention_type = AttentionWithRoPE
    attention_record = Tap.attention_record

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, ViTEVA02)
