"""Tap for timm's ConVit."""
from dataclasses import replace

from timm.models.convit import GPSA, MHSA, ConVit
from torch import nn

from ..registry import TAPS
from .base import EMBED, Layer, TapPoints, inner_module
from .timm import POINTS, TimmTap

GATED = {'q': ('attn.qk', (0, 2)), 'k': ('attn.qk', (1, 2)), 'v': ('attn.v', None)}


@TAPS.register_module()
class TimmConVitTap(TimmTap):
    """Reads timm's ``ConVit``: at attention level, the blocks behind those of gated attention.

    The class token joins there too.
    """

    models = (ConVit, )
    attentions = (MHSA, )
    without_maps = {GPSA: 'whose maps are sums of two softmaxes'}
    points = replace(POINTS, embedding=('patch_embed', 'pos_embed', 'cls_token'))

    def count_prefix_tokens(self) -> int:
        return self.prefix_at(len(self.blocks) - 1)

    def prefix_at(self, layer: Layer) -> int:
        return int((0 if layer == EMBED else layer) >= self.model.local_up_to_layer)

    def points_of(self, block: nn.Module) -> TapPoints:
        points = super().points_of(block)
        return replace(points, matrices={**points.matrices, **GATED}) \
            if isinstance(inner_module(block.attn), GPSA) else points
