"""Tap for MMPretrain's VisionTransformer (ViT, DeiT, DINOv2) and those that extend it."""
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils import MultiheadAttention, SwiGLUFFN
from torch import Tensor, nn

from ..image_mask import Size
from ..records import AttentionRecord
from ..registry import TAPS
from .base import Layer, Tap, TapPoints, fused_qkv_matrices, inner_module, split_heads

POINTS = TapPoints(
    embedding=('patch_embed', 'cls_token', 'dist_token', 'mask_token', 'pos_embed', 'pre_norm'),
    attention='attn.qkv',
    heads='attn',
    matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))
#: Of blocks with a gated MLP (SwiGLU), whose first layer has the gates above what they gate.
GATED_POINTS = replace(POINTS, matrices={
    **POINTS.matrices, 'fc1': ('ffn.w12', (1, 2)), 'fc2': ('ffn.w3', None)})
PREFIX_TOKENS = ('cls_token', 'dist_token')


@TAPS.register_module()
class VisionTransformerTap(Tap):
    """Reads MMPretrain's ``VisionTransformer`` and those that differ from it outside of attention.

    These are ``DistilledVisionTransformer``, ``DeiT3``, ``MoCoV3ViT``, of whose two views the
    second is read, and ``MAEViT``, ``MFFViT`` and ``MILANViT``, of whose patches those are read
    that are not masked. The attention is fused, so no map exists; records rebuild it from queries
    and keys. Of a gated MLP (SwiGLU), ``fc1`` is what is gated, not the gates.
    """

    points = POINTS
    attention_type: type = MultiheadAttention

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, VisionTransformer)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.layers)

    def count_prefix_tokens(self) -> int:
        # Counted, because `num_extra_tokens` of the class need not be what the instance has.
        return sum(getattr(self.backbone, name, None) is not None for name in PREFIX_TOKENS)

    def points_of(self, block: nn.Module) -> TapPoints:
        gated = isinstance(inner_module(getattr(block, 'ffn', None)), SwiGLUFFN)
        return GATED_POINTS if gated else self.points

    def patch_size(self, layer: Layer) -> Size:
        return self.backbone.patch_embed.projection.stride

    def check_attention(self, block: nn.Module) -> None:
        attention = inner_module(block.attn)
        if not isinstance(attention, self.attention_type):
            raise ValueError(
                f'attention of {type(self.backbone).__name__} is a {type(attention).__name__}, '
                "whose maps this tap cannot rebuild; drop the terms with `on='attention'`")

    def attention_record(self, block: nn.Module, captured: Tensor, layer: int) -> AttentionRecord:
        attn = block.attn
        q, k, _ = split_heads(captured, attn.num_heads)
        # With `qk_scale` set, the host divides by the number that it otherwise multiplies by.
        custom = attn.scaled_dot_product_attention
        scale = 1 / custom.keywords['scale'] if isinstance(custom, partial) else q.size(-1)**-0.5
        return AttentionRecord(layer, q=q, k=k, scale=scale)
