"""Tap for MMPretrain's MixMIMTransformer."""
from collections.abc import Sequence

from mmpretrain.models.backbones import MixMIMTransformer
from torch import nn

from ..registry import TAPS
from .base import Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class MixMIMTransformerTap(Tap):
    """Reads MMPretrain's ``MixMIMTransformer``, also in pre-training.

    Blocks are counted through all stages, and windows are items of the batch at attention level. In
    pre-training the tokens of two images are mixed, and make up one item together; all are patches.
    Maps have zeros from the tokens of one image to those of the other.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'absolute_pos_embed'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, MixMIMTransformer)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for layer in self.backbone.layers for block in layer.blocks]

    def count_prefix_tokens(self) -> int:
        return 0
