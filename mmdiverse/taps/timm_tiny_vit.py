"""Tap for timm's TinyVit."""
from dataclasses import replace

from mmpretrain.models.utils import to_2tuple
from timm.models.tiny_vit import Attention, TinyVit
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import TapPoints
from .levit import interleaved_matrices
from .timm import POINTS, TimmStagesTap
from .windows import WindowTap


@TAPS.register_module()
class TimmTinyVitTap(WindowTap, TimmStagesTap):
    """Reads timm's ``TinyVit``: the blocks with attention, through all stages but the first.

    Windows are items of the batch at attention level. The first stage is of convolutions.
    """

    layout = 'BHWC'
    models = (TinyVit, )
    attentions = (Attention, )
    points = replace(POINTS, embedding=())

    @property
    def stride(self) -> Size:
        return to_2tuple(self.model.patch_embed.stride)

    def find_stages(self) -> list[list[nn.Module]]:
        return [[], *(list(stage.blocks) for stage in self.model.stages[1:])]

    def points_of(self, block: nn.Module) -> TapPoints:
        points, attention = super().points_of(block), block.attn
        return replace(points, matrices={**points.matrices, **interleaved_matrices(
            'attn.qkv', attention.num_heads, q=attention.key_dim, k=attention.key_dim,
            v=attention.val_dim)})

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int]:
        return block.window_size, 0
