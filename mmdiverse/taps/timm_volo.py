"""Tap for timm's VOLO."""
from dataclasses import replace

from timm.models.volo import VOLO, Attention, OutlookAttention, Outlooker
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import TapPoints, inner_module
from .timm import POINTS, TimmStagesTap


@TAPS.register_module()
class TimmVOLOTap(TimmStagesTap):
    """Reads timm's ``VOLO``; the outlookers of its first stage have neither maps nor queries.

    The class token joins after the last block: the class-attention layers behind, which change no
    patch, are none.
    """

    layout = 'BHWC'
    models = (VOLO, )
    attentions = (Attention, )
    without_maps = {OutlookAttention: 'which has weights of neighbours instead of maps'}
    points = replace(POINTS, embedding=('patch_embed', ))

    @property
    def stride(self) -> Size:
        reduction = self.model.feature_info[0]['reduction']
        return reduction, reduction

    def find_stages(self) -> list[list[nn.Module]]:
        return [list(self.model.network[index]) for index in self.model.stage_ends]

    def count_prefix_tokens(self) -> int:
        return 0

    def points_of(self, block: nn.Module) -> TapPoints:
        points = super().points_of(block)
        if not isinstance(inner_module(block), Outlooker):
            return points
        matrices = {name: place for name, place in points.matrices.items() if name not in 'qk'}
        return replace(points, matrices={**matrices, 'v': ('attn.v', None)})
