"""MMPretrain's SwinTransformer."""
from typing import Any

from mmpretrain.models.backbones import SwinTransformer
from torch import nn

from .family import Family


def swin(**options: Any) -> nn.Module:
    # 8 x 8 tokens in four windows, of which the second block shifts; then 4 x 4 in one.
    options = dict(dict(img_size=16, window_size=4, out_indices=(1, )), **options)
    return SwinTransformer(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]), patch_size=2,
                           drop_rate=0.1, drop_path_rate=0.1, **options)


SWIN = dict(tap='SwinTransformerTap', blocks='stages', attention='attn.w_msa', prefix=(),
            image_size=16, num_patches=64)
FAMILIES = [
    Family('swin', make=swin, **SWIN),
    Family('swin-position-embedding', make=lambda: swin(use_abs_pos_embed=True), **SWIN),
]
