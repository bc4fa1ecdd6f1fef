"""MMPretrain's SwinTransformerV2."""
from typing import Any

from mmpretrain.models.backbones import SwinTransformerV2
from torch import nn

from .family import Family
from .swin import SWIN


def swin_v2(**options: Any) -> nn.Module:
    # As swin(), whose second stage begins with the merging of patches here.
    options = dict(dict(img_size=16, window_size=4, out_indices=[1]), **options)
    arch = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4], extra_norm_every_n_blocks=2)
    return SwinTransformerV2(arch=arch, patch_size=2, drop_rate=0.1, drop_path_rate=0.1, **options)


FAMILIES = [
    Family('swin-v2', make=swin_v2, **{**SWIN, 'tap': 'SwinTransformerV2Tap'}),
]
