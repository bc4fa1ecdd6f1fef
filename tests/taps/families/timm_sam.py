"""timm's VisionTransformerSAM."""
from functools import partial

from .family import Family
from .timm import TIMM, timm_vit, unfused

# 4 x 4 tokens in four windows, but for the second block.
sam = partial(timm_vit, 'samvit_base_patch16', window_size=2, global_attn_indexes=(1, ),
              neck_chans=8)
SAM = {**TIMM, 'tap': 'TimmVisionTransformerSAMTap', 'prefix': (),
       'output': lambda output: output.flatten(1, 2)}
FAMILIES = [
    Family('timm-sam', make=sam, **SAM),
    Family('timm-sam-unfused', make=lambda: unfused(sam), **SAM),
    Family('timm-sam-rope', make=partial(sam, use_rel_pos=False, use_rope=True, qk_norm=True,
                                         pre_norm=True), **SAM),
]
# 4 x 4 tokens in windows of 3.
PADDED = [Family('timm-sam-padded', make=partial(sam, window_size=3), **SAM)]
