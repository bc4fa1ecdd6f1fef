"""timm's Eva and NaFlexVit."""
from functools import partial

from .family import Family
from .timm import REGISTERS, TIMM, timm_vit, unfused

EVA = {**TIMM, 'tap': 'TimmEvaTap'}
SEPARATE = {**EVA, 'qkv': ('q_proj', 'k_proj', 'v_proj')}
eva02 = partial(timm_vit, 'eva02_base_patch14_224')

NAFLEX = {**TIMM, 'tap': 'TimmNaFlexVitTap',
          'prefix': ('timm_model.embeds.cls_token', 'timm_model.embeds.reg_token')}
naflex = partial(timm_vit, 'naflexvit_base_patch16_gap', pos_embed_grid_size=(4, 4),
                 class_token=True, reg_tokens=2)

FAMILIES = [
    Family('timm-eva', make=partial(timm_vit, 'eva_giant_patch14_224'), **EVA),
    Family('timm-eva02', make=eva02, **{**SEPARATE, 'fc': ('mlp.fc1_x', 'mlp.fc2')}),
    Family('timm-eva02-unfused', make=lambda: unfused(eva02),
           **{**SEPARATE, 'fc': ('mlp.fc1_x', 'mlp.fc2')}),
    Family('timm-eva02-packed', make=partial(timm_vit, 'eva02_tiny_patch14_224'),
           fc1=lambda weight: weight.chunk(2)[1], **EVA),
    # What enters its projection is normalised.
    Family('timm-eva-post-norm', make=partial(
        timm_vit, 'eva_giant_patch14_224', use_post_norm=True, scale_attn_inner=True),
        head_outputs=None, **EVA),
    Family('timm-dinov3', make=partial(timm_vit, 'vit_small_patch16_dinov3'),
           **{**EVA, 'prefix': REGISTERS}),
    Family('timm-rope-mixed', make=partial(timm_vit, 'vit_small_patch16_rope_mixed_224'), **EVA),
    Family('timm-perception-encoder', make=partial(timm_vit, 'vit_pe_core_base_patch16_224'),
           **EVA),
    Family('timm-eva-shared-keys', make=partial(
        timm_vit, 'vit_small_patch16_dinov3', attn_type='rope', qkv_fused=False, num_kv_heads=1),
        **{**SEPARATE, 'prefix': REGISTERS}),
    Family('timm-naflex', make=naflex, **NAFLEX),
    Family('timm-naflex-rope', make=partial(
        naflex, rope_type='axial', pos_embed='factorized', swiglu_mlp=True),
        fc1=lambda weight: weight.chunk(2)[1], **NAFLEX),
]
