"""timm's VisionTransformer inside MMPretrain's TIMMBackbone."""
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family


def timm_vit(model_name: str = 'vit_tiny_patch16_224', **options: Any) -> nn.Module:
    return TIMMBackbone(model_name=model_name, img_size=32, patch_size=8, depth=2, embed_dim=32,
                        num_heads=2, drop_path_rate=0.1, **options)


TIMM = dict(tap='TimmVisionTransformerTap', blocks='timm_model.blocks', fc=('mlp.fc1', 'mlp.fc2'),
            prefix=('timm_model.cls_token', ), image_size=32, num_patches=16)
FAMILIES = [
    Family('timm', make=timm_vit, **TIMM),
    Family('timm-no-class-token', make=lambda: timm_vit(class_token=False, global_pool='avg'),
           **{**TIMM, 'prefix': ()}),
    Family('timm-registers', make=lambda: timm_vit(reg_tokens=2, qk_norm=True),
           **{**TIMM, 'prefix': ('timm_model.cls_token', 'timm_model.reg_token')}),
    Family('timm-distilled', make=lambda: timm_vit('deit_tiny_distilled_patch16_224'),
           **{**TIMM, 'prefix': ('timm_model.cls_token', 'timm_model.dist_token')}),
]
