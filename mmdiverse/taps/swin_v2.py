"""Tap for MMPretrain's SwinTransformerV2."""
from itertools import accumulate

from mmpretrain.models.backbones import SwinTransformerV2
from mmpretrain.models.utils import WindowMSAV2
from torch import nn

from ..registry import TAPS
from .base import TapPoints, fused_qkv_matrices
from .swin import SwinTransformerTap


@TAPS.register_module()
class SwinTransformerV2Tap(SwinTransformerTap):
    """Reads MMPretrain's ``SwinTransformerV2``, whose scores are scaled cosines."""

    probed = True
    attention_type = WindowMSAV2
    points = TapPoints(
        embedding=('patch_embed', 'absolute_pos_embed'),
        attention='attn.w_msa',
        heads='attn.w_msa',
        matrices=fused_qkv_matrices('attn.w_msa.qkv', 'attn.w_msa.proj', 'ffn.layers.0.0',
                                    'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, SwinTransformerV2)

    def mergings_before(self, layer: int) -> list[nn.Module]:
        # Every stage but the first begins with one.
        starts = accumulate((len(stage.blocks) for stage in self.backbone.stages), initial=0)
        return [stage.downsample.sampler for stage, start in zip(self.backbone.stages, starts)
                if start <= layer and stage.downsample is not None]
