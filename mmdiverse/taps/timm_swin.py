"""Tap for timm's SwinTransformer, SwinTransformerV2 and SwinTransformerV2Cr."""
from dataclasses import replace

from timm.models import swin_transformer, swin_transformer_v2, swin_transformer_v2_cr
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .timm import POINTS, TimmStagesTap
from .windows import WindowTap


@TAPS.register_module()
class TimmSwinTransformerTap(WindowTap, TimmStagesTap):
    """Reads timm's ``SwinTransformer``, ``SwinTransformerV2`` and ``SwinTransformerV2Cr``.

    Windows are items of the batch at attention level.
    """

    layout = 'BHWC'
    pads_first = False
    models = (swin_transformer.SwinTransformer, swin_transformer_v2.SwinTransformerV2,
              swin_transformer_v2_cr.SwinTransformerV2Cr)
    attentions = (swin_transformer.WindowAttention, swin_transformer_v2.WindowAttention,
                  swin_transformer_v2_cr.WindowMultiHeadAttention)
    points = replace(POINTS, embedding=('patch_embed', ))

    def find_stages(self) -> list[list[nn.Module]]:
        stages = self.model.stages if hasattr(self.model, 'stages') else self.model.layers
        return [list(stage.blocks) for stage in stages]

    def window(self, block: nn.Module, grid: Size) -> tuple[Size, Size]:
        return block.window_size, block.shift_size
