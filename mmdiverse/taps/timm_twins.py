"""Tap for timm's Twins."""
from dataclasses import replace

from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn, Twins
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import TapPoints, inner_module
from .timm import POINTS, TimmStagesTap
from .windows import WindowTap

GLOBAL = {'q': ('attn.q', None), 'k': ('attn.kv', (0, 2)), 'v': ('attn.kv', (1, 2))}


@TAPS.register_module()
class TimmTwinsTap(WindowTap, TimmStagesTap):
    """Reads timm's ``Twins``.

    All blocks of PCPVT, and every second one of SVT, attend to keys of which a convolution makes
    fewer than queries. The others of SVT attend in windows, which are items of the batch at
    attention level.
    """

    models = (Twins, )
    attentions = (GlobalSubSampleAttn, LocallyGroupedAttn)
    points = replace(POINTS, embedding=('patch_embeds.0', ))

    @property
    def stride(self) -> Size:
        return self.model.patch_embeds[0].patch_size

    def find_stages(self) -> list[list[nn.Module]]:
        return [list(stage) for stage in self.model.blocks]

    def points_of(self, block: nn.Module) -> TapPoints:
        points = super().points_of(block)
        return replace(points, matrices={**points.matrices, **GLOBAL}) \
            if isinstance(inner_module(block.attn), GlobalSubSampleAttn) else points

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int] | None:
        return (block.attn.ws, 0) if hasattr(block.attn, 'ws') else None
