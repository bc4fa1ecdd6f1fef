"""timm's VisionTransformerRelPos."""
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family
from .timm import DROP, SIZE, TIMM, unfused


def relpos(model_name: str = 'vit_relpos_small_patch16_224', **options: Any) -> nn.Module:
    drop = {key: value for key, value in DROP.items() if key != 'pos_drop_rate'}
    return TIMMBackbone(model_name=model_name, **SIZE, **drop, **options)


RELPOS = {**TIMM, 'tap': 'TimmRelPosTap', 'prefix': ()}
FAMILIES = [
    Family('timm-relpos', make=relpos, **RELPOS),
    Family('timm-relpos-unfused', make=lambda: unfused(relpos), **RELPOS),
    Family('timm-relpos-shared', make=partial(relpos, 'vit_srelpos_small_patch16_224'), **RELPOS),
    Family('timm-relpos-class-token',
           make=partial(relpos, 'vit_relpos_base_patch16_clsgap_224', rel_pos_type='bias'),
           **{**RELPOS, 'prefix': ('timm_model.cls_token', )}),
]
