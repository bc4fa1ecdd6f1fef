"""timm's PoolingVisionTransformer."""
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family
from .timm import DROP


def pit(**options: Any) -> nn.Module:
    # 7 x 7 tokens, then 4 x 4.
    return TIMMBackbone('pit_ti_224', img_size=32, patch_size=8, stride=4, base_dims=(8, 8),
                        depth=(2, 1), heads=(2, 4), **DROP, **options)


FAMILIES = [
    Family('timm-pit', 'TimmPoolingVisionTransformerTap', pit, blocks='timm_model.transformers',
           fc=('mlp.fc1', 'mlp.fc2'), prefix=('timm_model.cls_token', ), image_size=32,
           num_patches=49),
]
