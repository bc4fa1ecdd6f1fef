"""timm's Cait."""
from functools import partial

from .family import Family
from .timm import TIMM, timm_vit

FAMILIES = [
    Family('timm-cait', make=partial(timm_vit, 'cait_xxs24_224'), with_maps=False,
           **{**TIMM, 'tap': 'TimmCaitTap', 'prefix': ()}),
]
