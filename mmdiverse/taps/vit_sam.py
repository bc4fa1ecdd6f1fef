"""Tap for MMPretrain's ViTSAM."""
from collections.abc import Sequence

from mmpretrain.models.backbones import ViTSAM
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import Layer, TapPoints, fused_qkv_matrices
from .windows import WindowTap


@TAPS.register_module()
class ViTSAMTap(WindowTap):
    """Reads MMPretrain's ``ViTSAM``, the image encoder of Segment Anything.

    Most of its blocks attend in windows, each of which is an item of the batch at attention level;
    those at ``global_attn_indexes`` to all patches.
    """

    probed = True
    layout = 'BHWC'
    points = TapPoints(
        embedding=('patch_embed', 'pos_embed'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, ViTSAM)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.layers)

    def count_prefix_tokens(self) -> int:
        return 0

    def patch_size(self, layer: Layer) -> Size:
        return self.backbone.patch_embed.projection.stride

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int] | None:
        return (block.window_size, 0) if block.window_size else None
