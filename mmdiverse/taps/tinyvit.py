"""Tap for MMPretrain's TinyViT."""
from collections.abc import Sequence
from dataclasses import replace

from mmpretrain.models.backbones import TinyViT
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import EMBED, Layer, TapPoints
from .levit import interleaved_matrices
from .windows import WindowTap


@TAPS.register_module()
class TinyViTTap(WindowTap):
    """Reads MMPretrain's ``TinyViT``: the blocks with attention, through all stages but the first.

    Windows are items of the batch at attention level. The first stage is of convolutions.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'stages.0'),
        attention='attn',
        heads='attn',
        matrices={'proj': ('attn.proj', None), 'fc1': ('mlp.fc1', None), 'fc2': ('mlp.fc2', None)})

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, TinyViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.backbone.stages[1:] for block in stage.blocks]

    def count_prefix_tokens(self) -> int:
        return 0

    def patch_size(self, layer: Layer) -> Size:
        grid = self.blocks[0 if layer == EMBED else layer].img_size
        return tuple(pixels // side for pixels, side in zip(self.backbone.img_size, grid))

    def points_of(self, block: nn.Module) -> TapPoints:
        attention = block.attn
        return replace(self.points, matrices={
            **interleaved_matrices('attn.qkv', attention.num_heads, q=attention.key_dim,
                                   k=attention.key_dim, v=attention.d),
            **self.points.matrices})

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int]:
        return block.window_size, 0

    def grid(self, block: nn.Module, args: tuple) -> Size:
        return block.img_size
