"""timm's Xcit."""
from functools import partial

from .family import Family
from .timm import TIMM, timm_vit

FAMILIES = [
    Family('timm-xcit', make=partial(timm_vit, 'xcit_nano_12_p8_224'), with_maps=False,
           **{**TIMM, 'tap': 'TimmXcitTap', 'prefix': ()}),
]
