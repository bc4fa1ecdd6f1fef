"""MMPretrain's T2T_ViT."""
from typing import Any

from mmpretrain.models.backbones import T2T_ViT
from torch import nn

from .family import Family


def t2t(**options: Any) -> nn.Module:
    return T2T_ViT(img_size=48, embed_dims=16, num_layers=3, drop_rate=0.1, drop_path_rate=0.1,
                   t2t_cfg=dict(token_dims=8),
                   layer_cfgs=dict(num_heads=2, feedforward_channels=24, drop_rate=0.1,
                                   attn_drop_rate=0.1), **options)


T2T = dict(tap='T2TViTTap', blocks='encoder', image_size=48)
FAMILIES = [
    Family('t2t', make=t2t, **T2T),
    Family('t2t-no-class-token', prefix=(),
           make=lambda: t2t(with_cls_token=False, out_type='avg_featmap'), **T2T),
]
