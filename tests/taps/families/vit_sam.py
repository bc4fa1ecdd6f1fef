"""MMPretrain's ViTSAM."""
from typing import Any

from mmpretrain.models.backbones import ViTSAM
from torch import nn

from .family import Family


def vit_sam(**options: Any) -> nn.Module:
    # 4 x 4 patches in four windows, but for the second block.
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24,
                global_attn_indexes=[1])
    options = dict(dict(img_size=16), **options)
    return ViTSAM(arch=arch, patch_size=4, window_size=2, out_channels=8, drop_rate=0.1,
                  drop_path_rate=0.1, **options)


SAM = dict(tap='ViTSAMTap', prefix=(), image_size=16, num_patches=16,
           output=lambda output: output.flatten(1, 2))
FAMILIES = [
    Family('vit-sam', make=vit_sam, **SAM),
    Family('vit-sam-no-positions',
           make=lambda: vit_sam(use_rel_pos=False, use_abs_pos=False, qkv_bias=False), **SAM),
]
