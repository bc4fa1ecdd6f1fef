"""Tap for MMPretrain's T2T_ViT."""
from collections.abc import Sequence

from mmpretrain.models.backbones import T2T_ViT
from torch import nn

from ..registry import TAPS
from .base import Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class T2TViTTap(Tap):
    """Reads MMPretrain's ``T2T_ViT``: the blocks after its tokens-to-token module.

    That module, which makes patches of pixels with attention of its own, counts as the embedding.
    """

    probed = True
    points = TapPoints(
        embedding=('tokens_to_token', 'cls_token'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, T2T_ViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.encoder)

    def count_prefix_tokens(self) -> int:
        return int(self.backbone.cls_token is not None)
