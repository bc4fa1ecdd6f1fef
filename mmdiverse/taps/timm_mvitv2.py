"""Tap for timm's MultiScaleVit."""
from dataclasses import replace
from typing import Any

from timm.models.mvitv2 import MultiScaleAttention, MultiScaleVit
from torch import Tensor

from ..image_mask import Size
from ..registry import TAPS
from .timm import POINTS, TimmStagesTap


@TAPS.register_module()
class TimmMultiScaleVitTap(TimmStagesTap):
    """Reads timm's ``MultiScaleVit`` (MViTv2), whose queries and keys are pooled.

    Maps have a row of each query and a column of each key that pooling leaves. Outputs of heads
    are maps times values; the queries, which are added to them, are not part of it.
    """

    models = (MultiScaleVit, )
    attentions = (MultiScaleAttention, )
    points = replace(POINTS, embedding=('patch_embed', 'cls_token', 'pos_embed'))

    @property
    def stride(self) -> Size:
        return self.model.patch_embed.proj.stride

    def block_output(self, output: Any) -> Tensor:
        return output[0]
