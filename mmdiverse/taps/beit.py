"""Tap for MMPretrain's BEiT and BEiT v2."""
from collections.abc import Sequence

from mmpretrain.models.backbones import BEiTViT
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import Layer, Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class BEiTViTTap(Tap):
    """Reads MMPretrain's ``BEiTViT``, with relative positions in the scores of its attention.

    Of ``CAEPretrainViT``, the patches that are not masked are read.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'cls_token', 'mask_token', 'pos_embed', 'rel_pos_bias'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, BEiTViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.layers)

    def count_prefix_tokens(self) -> int:
        return int(self.backbone.cls_token is not None)

    def patch_size(self, layer: Layer) -> Size:
        return self.backbone.patch_embed.projection.stride
