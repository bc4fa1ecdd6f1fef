"""Tap for timm's DaVit."""
from dataclasses import replace

from timm.models.davit import ChannelAttention, ChannelAttentionV2, DaVit, WindowAttention
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import inner_module
from .timm import POINTS, TimmStagesTap
from .windows import WindowTap


@TAPS.register_module()
class TimmDaVitTap(WindowTap, TimmStagesTap):
    """Reads timm's ``DaVit``.

    Blocks are counted through all stages, and each of DaViT's is two, by default one that attends
    in windows of tokens, which are items of the batch at attention level, and one that attends from
    channels to channels, so that it has no maps of tokens.
    """

    layout = 'BCHW'
    models = (DaVit, )
    attentions = (WindowAttention, )
    without_maps = dict.fromkeys((ChannelAttention, ChannelAttentionV2),
                                 'whose maps are of channels, not of tokens')
    points = replace(POINTS, embedding=())

    @property
    def stride(self) -> Size:
        return self.model.stem.stride

    def find_stages(self) -> list[list[nn.Module]]:
        return [[part for block in stage.blocks for part in block] for stage in self.model.stages]

    def window(self, block: nn.Module, grid: Size) -> tuple[Size, int] | None:
        is_windowed = isinstance(inner_module(block.attn), WindowAttention)
        return (block.window_size, 0) if is_windowed else None
