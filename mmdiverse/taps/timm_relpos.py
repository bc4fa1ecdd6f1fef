"""Tap for timm's VisionTransformerRelPos."""
from dataclasses import replace

from timm.models.vision_transformer_relpos import RelPosAttention, VisionTransformerRelPos

from ..registry import TAPS
from .timm import POINTS, TimmTap


@TAPS.register_module()
class TimmRelPosTap(TimmTap):
    """Reads timm's ``VisionTransformerRelPos`` (``vit_relpos_...``, ``vit_srelpos_...``)."""

    models = (VisionTransformerRelPos, )
    attentions = (RelPosAttention, )
    points = replace(POINTS, embedding=('patch_embed', 'cls_token', 'shared_rel_pos'))
