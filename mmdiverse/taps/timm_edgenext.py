"""Tap for timm's EdgeNeXt."""
from timm.models.edgenext import CrossCovarianceAttn, EdgeNeXt, SplitTransposeBlock
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import TapPoints, fused_qkv_matrices, inner_module
from .timm import TimmStagesTap


@TAPS.register_module()
class TimmEdgeNeXtTap(TimmStagesTap):
    """Reads the transformer blocks of timm's ``EdgeNeXt`` at patch and weight level.

    These are its ``SplitTransposeBlock``, counted through all stages; blocks of convolutions are
    none.
    """

    layout = 'BCHW'
    models = (EdgeNeXt, )
    attentions = ()
    without_maps = {CrossCovarianceAttn: 'whose maps are of channels, not of tokens'}
    points = TapPoints(embedding=(), attention='xca', heads='xca', matrices=fused_qkv_matrices(
        'xca.qkv', 'xca.proj', 'mlp.fc1', 'mlp.fc2'))

    @property
    def stride(self) -> Size:
        return self.model.stem[0].stride

    def find_stages(self) -> list[list[nn.Module]]:
        return [[block for block in stage.blocks
                 if isinstance(inner_module(block), SplitTransposeBlock)]
                for stage in self.model.stages]
