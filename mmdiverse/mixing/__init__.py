"""Patch-level mixing: every patch is classified as the mixture of images that it shows."""
from .batch_augments import PatchCutMix, PatchMix, PatchMixup, patch_shares
from .cross_entropy import (
    PatchMixingLoss,
    linear_patch_mixing_cross_entropy,
    patch_mixing_cross_entropy,
)
from .data_preprocessor import PatchMixingDataPreprocessor
from .heads import PatchMixingClsHead, PatchMixingLinearClsHead

__all__ = [
    'PatchCutMix', 'PatchMix', 'PatchMixingClsHead', 'PatchMixingDataPreprocessor',
    'PatchMixingLinearClsHead', 'PatchMixingLoss', 'PatchMixup',
    'linear_patch_mixing_cross_entropy', 'patch_mixing_cross_entropy', 'patch_shares'
]
