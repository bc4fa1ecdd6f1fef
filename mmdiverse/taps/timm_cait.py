"""Tap for timm's Cait."""
from dataclasses import replace

from timm.models.cait import Cait, TalkingHeadAttn

from ..registry import TAPS
from .timm import POINTS, TimmTap


@TAPS.register_module()
class TimmCaitTap(TimmTap):
    """Reads timm's ``Cait`` at patch and weight level.

    The class token joins after the last block: the class-attention layers behind, which change no
    patch, are none.
    """

    models = (Cait, )
    attentions = ()
    without_maps = {TalkingHeadAttn: 'which mixes the maps of its heads after the softmax'}
    points = replace(POINTS, embedding=('patch_embed', 'pos_embed'))

    def count_prefix_tokens(self) -> int:
        return 0
