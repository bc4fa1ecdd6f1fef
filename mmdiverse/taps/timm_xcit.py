"""Tap for timm's Xcit."""
from dataclasses import replace

from timm.models.xcit import XCA, Xcit

from ..registry import TAPS
from .timm import POINTS, TimmTap


@TAPS.register_module()
class TimmXcitTap(TimmTap):
    """Reads timm's ``Xcit`` at patch and weight level.

    The class token joins after the last block: the class-attention layers behind, which change no
    patch, are none.
    """

    models = (Xcit, )
    attentions = ()
    without_maps = {XCA: 'whose maps are of channels, not of tokens'}
    points = replace(POINTS, embedding=('patch_embed', 'pos_embed'))

    def count_prefix_tokens(self) -> int:
        return 0
