"""MMPretrain's VisionTransformer and distilled DeiT."""
from typing import Any

from mmpretrain.models.backbones import DistilledVisionTransformer, VisionTransformer
from mmpretrain.models.utils import MultiheadAttention
from torch import nn

from .family import Family


def vit(type: type = VisionTransformer, **options: Any) -> nn.Module:
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)
    return type(arch=arch, img_size=12, patch_size=4, drop_rate=0.1, drop_path_rate=0.1,
                layer_cfgs=dict(attn_drop_rate=0.1), **options)


def vit_with_qk_scale() -> nn.Module:
    # MMPretrain's blocks cannot be given a qk_scale, but its attention can.
    backbone = vit()
    for block in backbone.layers:
        block.attn = MultiheadAttention(16, 2, qk_scale=0.5)
    return backbone


FAMILIES = [
    Family('vit', 'VisionTransformerTap', vit),
    Family('vit-no-class-token', 'VisionTransformerTap',
           lambda: vit(with_cls_token=False, out_type='avg_featmap'), prefix=()),
    Family('vit-pre-norm', 'VisionTransformerTap', lambda: vit(pre_norm=True)),
    Family('vit-qk-scale', 'VisionTransformerTap', vit_with_qk_scale),
    Family('deit-distilled', 'VisionTransformerTap',
           lambda: vit(DistilledVisionTransformer, out_type='raw'),
           prefix=('cls_token', 'dist_token')),
]
