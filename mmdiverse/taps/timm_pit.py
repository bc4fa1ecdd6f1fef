"""Tap for timm's PoolingVisionTransformer."""
from dataclasses import replace

from timm.layers import Attention
from timm.models.pit import PoolingVisionTransformer
from torch import nn

from ..registry import TAPS
from .base import Tap
from .timm import POINTS, TimmStagesTap


@TAPS.register_module()
class TimmPoolingVisionTransformerTap(TimmStagesTap):
    """Reads timm's ``PoolingVisionTransformer`` (PiT)."""

    models = (PoolingVisionTransformer, )
    attentions = (Attention, )
    points = replace(POINTS, embedding=('patch_embed', 'pos_embed', 'cls_token'))
    patch_size = Tap.patch_size  # Its patches overlap and leave out the end of an image.

    def find_stages(self) -> list[list[nn.Module]]:
        return [list(stage.blocks) for stage in self.model.transformers]

    def count_prefix_tokens(self) -> int:
        return self.model.num_tokens
