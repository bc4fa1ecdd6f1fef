"""Tap for the transformer branch of MMPretrain's Conformer."""
from collections.abc import Sequence

from mmpretrain.models.backbones import Conformer
from torch import nn

from ..registry import TAPS
from .base import Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class ConformerTap(Tap):
    """Reads the transformer branch of MMPretrain's ``Conformer``.

    The convolutions beside it have no tokens, heads or queries, and are not read; what they add to
    the patches between two blocks is part of the input of the second.
    """

    probed = True
    points = TapPoints(
        embedding=('conv1', 'bn1', 'trans_patch_conv', 'cls_token'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, Conformer)

    def find_blocks(self) -> Sequence[nn.Module]:
        fused = (getattr(self.backbone, f'conv_trans_{index}')
                 for index in range(2, self.backbone.fin_stage))
        return [self.backbone.trans_1, *(block.trans_block for block in fused)]

    def count_prefix_tokens(self) -> int:
        return int(self.backbone.with_cls_token)
