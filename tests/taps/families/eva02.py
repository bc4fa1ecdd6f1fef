"""MMPretrain's ViTEVA02."""
from typing import Any

from mmpretrain.models.backbones import ViTEVA02
from torch import nn

from .family import Family
from .vit import GATED


def eva02(**options: Any) -> nn.Module:
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)
    return ViTEVA02(arch=arch, img_size=12, patch_size=4, drop_rate=0.1, attn_drop_rate=0.1,
                    proj_drop_rate=0.1, drop_path_rate=0.1, **options)


EVA02 = dict(GATED, tap='ViTEVA02Tap', fc=('mlp.w12', 'mlp.w3'))
FAMILIES = [
    Family('eva02', make=eva02, **EVA02),
    Family('eva02-sub-norm', make=lambda: eva02(sub_ln=True, qkv_bias=False), **EVA02),
    Family('eva02-no-class-token', prefix=(),
           make=lambda: eva02(with_cls_token=False, out_type='avg_featmap'), **EVA02),
]
