"""Tap for MMPretrain's XCiT."""
from collections.abc import Sequence

from mmpretrain.models.backbones import XCiT
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import Layer, Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class XCiTTap(Tap):
    """Reads MMPretrain's ``XCiT`` at patch and weight level.

    Its attention is one of channels to channels, so that it has no maps of tokens. The class token
    joins after the last block: the class-attention layers behind, which mix no patches, are none.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'pos_embed'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, XCiT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.xca_layers)

    def count_prefix_tokens(self) -> int:
        return 0

    def check_attention(self, block: nn.Module) -> None:
        raise ValueError('XCiT attends from channels to channels, so its blocks have no attention '
                         "maps of tokens; drop the terms with `on='attention'`")

    def patch_size(self, layer: Layer) -> Size:
        side = self.backbone.patch_embed.patch_size
        return side, side
