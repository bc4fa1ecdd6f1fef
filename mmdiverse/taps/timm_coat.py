"""Tap for timm's CoaT-Lite."""
from dataclasses import replace

from timm.models.coat import CoaT, FactorAttnConvRelPosEnc
from torch import nn

from ..registry import TAPS
from .base import fused_qkv_matrices
from .timm import POINTS, TimmStagesTap, find_timm_model


@TAPS.register_module()
class TimmCoaTTap(TimmStagesTap):
    """Reads timm's ``coat_lite_...``, which has no parallel blocks, at patch and weight level."""

    models = (CoaT, )
    attentions = ()
    without_maps = {FactorAttnConvRelPosEnc: 'which multiplies keys and values first, without maps'}
    points = replace(
        POINTS, embedding=('patch_embed1', 'cls_token1'), attention='factoratt_crpe',
        heads='factoratt_crpe', matrices=fused_qkv_matrices(
            'factoratt_crpe.qkv', 'factoratt_crpe.proj', 'mlp.fc1', 'mlp.fc2'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return super().matches(backbone) and find_timm_model(backbone).parallel_blocks is None

    @property
    def stride(self) -> tuple[int, int]:
        return self.model.patch_embed1.patch_size

    def find_stages(self) -> list[list[nn.Module]]:
        return [list(getattr(self.model, f'serial_blocks{stage}')) for stage in range(1, 5)]

    def count_prefix_tokens(self) -> int:
        return 1
