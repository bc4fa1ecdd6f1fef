"""Tap for timm's Hiera."""
from dataclasses import replace

from timm.models.hiera import Hiera, MaskUnitAttention
from torch import Tensor

from ..registry import TAPS
from .base import Tap
from .timm import POINTS, TimmTap


@TAPS.register_module()
class TimmHieraTap(TimmTap):
    """Reads timm's ``Hiera``.

    In its first stages tokens attend within a mask unit, which is an item of the batch at
    attention level. Most stages begin with a block that pools its queries. Tokens are in the order
    of the model: mask unit by mask unit.
    """

    row_by_row = False
    models = (Hiera, )
    attentions = (MaskUnitAttention, )
    points = replace(POINTS, embedding=('patch_embed', 'pos_embed', 'pos_embed_win',
                                        'pos_embed_spatial', 'pos_embed_temporal'))
    patch_size = Tap.patch_size  # Its tokens are not row by row, as those of a padded image are.

    def count_heads(self, layer: int) -> int:
        return self.blocks[layer].attn.heads

    def _split_heads(self, tensor: Tensor, layer: int) -> Tensor:
        # Its heads come before the mask units.
        return tensor.transpose(1, 2).flatten(0, 1) if tensor.dim() == 5 else tensor
