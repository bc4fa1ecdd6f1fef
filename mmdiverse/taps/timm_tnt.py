"""Tap for timm's TNT."""
from typing import Any

from mmpretrain.models.utils import to_2tuple
from timm.models.tnt import TNT, Attention
from torch import Tensor

from ..image_mask import Size
from ..registry import TAPS
from .base import TapPoints
from .timm import TimmTap


@TAPS.register_module()
class TimmTNTTap(TimmTap):
    """Reads timm's ``TNT`` (transformer in transformer): the outer parts of blocks, on patches.

    The inner parts are not read: their tokens are the pixels of one patch, and their attention
    looks at no other.
    """

    models = (TNT, )
    attentions = (Attention, )
    points = TapPoints(
        embedding=('pixel_embed', 'pixel_pos', 'norm1_proj', 'proj', 'norm2_proj', 'cls_token',
                   'patch_pos'),
        attention='attn_out',
        heads='attn_out',
        matrices={'q': ('attn_out.qk', (0, 2)), 'k': ('attn_out.qk', (1, 2)),
                  'v': ('attn_out.v', None), 'proj': ('attn_out.proj', None)})

    @property
    def stride(self) -> Size:
        return to_2tuple(self.model.feature_info[0]['reduction'])

    def block_input(self, args: tuple) -> Tensor:
        return args[1]

    def block_output(self, output: Any) -> Tensor:
        return output[1]
