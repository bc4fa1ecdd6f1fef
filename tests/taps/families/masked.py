"""MMPretrain's backbones of masked image modelling that put a token where they mask.

Nothing is masked here, so that all patches are in records; what is when they are masked,
:mod:`tests.taps.test_masked` says.
"""
from functools import partial
from typing import Any

import torch
from mmpretrain.models.selfsup import (
    BEiTPretrainViT,
    MaskFeatViT,
    SimMIMSwinTransformer,
    iTPNHiViT,
)
from torch import Tensor, nn

from .beit import beit
from .family import Family
from .hivit import FAMILY as HIVIT
from .hivit import MainStage, hivit
from .swin import SWIN
from .vit import vit


def simmim(**options: Any) -> nn.Module:
    # 14 x 14 tokens in four windows, then 7 x 7 in one.
    return SimMIMSwinTransformer(
        arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]), img_size=56, out_indices=(1, ),
        drop_rate=0.1, drop_path_rate=0.1, **options)


def unmasked(backbone: nn.Module, *shape: int) -> nn.Module:
    backbone.forward = partial(backbone.forward, mask=torch.zeros(3, *shape))
    return backbone


def itpn() -> nn.Module:
    backbone = unmasked(hivit(iTPNHiViT, reconstruction_type='clip', attn_drop_rate=0.1), 3, 3)
    forward = backbone.forward

    def main_stage(images: Tensor) -> tuple[Tensor, ...]:
        return forward(images)[-1:]

    backbone.forward = main_stage
    return backbone


FAMILIES = [
    Family('beit-pretrain', 'BEiTPretrainViTTap', lambda: unmasked(beit(BEiTPretrainViT), 3, 3)),
    Family('maskfeat', 'MaskFeatViTTap', lambda: unmasked(vit(MaskFeatViT), 9)),
    Family('simmim', make=lambda: unmasked(simmim(), 14, 14),
           **{**SWIN, 'tap': 'SimMIMSwinTransformerTap', 'image_size': 56, 'num_patches': 196}),
    MainStage('itpn', make=itpn, **{**HIVIT, 'tap': 'iTPNHiViTTap'}),
]
