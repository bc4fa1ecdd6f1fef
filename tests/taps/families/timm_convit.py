"""timm's ConVit, whose blocks are of gated attention, or of one with maps."""
from functools import partial

from .family import Family
from .timm import TIMM, timm_vit

convit = partial(timm_vit, 'convit_tiny', embed_dim=8, num_heads=4)
CONVIT = {**TIMM, 'tap': 'TimmConVitTap'}
FAMILIES = [
    Family('timm-convit', make=partial(convit, local_up_to_layer=0), **CONVIT),
    Family('timm-convit-gated', make=partial(convit, local_up_to_layer=3), with_maps=False,
           qkv=('qk', 'v'), split=lambda qk, v: (*qk.chunk(2), v), **{**CONVIT, 'prefix': ()}),
]
