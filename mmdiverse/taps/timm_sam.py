"""Tap for timm's VisionTransformerSAM."""
from dataclasses import replace

from timm.models.vision_transformer_sam import Attention, VisionTransformerSAM
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .timm import POINTS, TimmTap
from .windows import WindowTap


@TAPS.register_module()
class TimmVisionTransformerSAMTap(WindowTap, TimmTap):
    """Reads timm's ``VisionTransformerSAM``, whose blocks attend in windows or to all tokens.

    Windows are items of the batch at attention level.
    """

    layout = 'BHWC'
    models = (VisionTransformerSAM, )
    attentions = (Attention, )
    points = replace(POINTS, embedding=('patch_embed', 'pos_embed', 'norm_pre'))

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int] | None:
        return (block.window_size, 0) if block.window_size else None
