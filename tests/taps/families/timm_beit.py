"""timm's Beit."""
from functools import partial

from .family import Family
from .timm import TIMM, timm_vit, unfused

beit = partial(timm_vit, 'beit_base_patch16_224')
BEIT = {**TIMM, 'tap': 'TimmBeitTap'}
FAMILIES = [
    Family('timm-beit', make=beit, **BEIT),
    Family('timm-beit-unfused', make=lambda: unfused(beit), **BEIT),
    Family('timm-beit-shared-bias', make=lambda: beit(
        use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_abs_pos_emb=True), **BEIT),
    # Both biases are added to the scores.
    Family('timm-beit-two-biases', make=lambda: timm_vit(
        'beitv2_base_patch16_224', use_shared_rel_pos_bias=True), **BEIT),
]
