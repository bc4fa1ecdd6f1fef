"""Tap for MMPretrain's EfficientFormer."""
from collections.abc import Sequence

from mmpretrain.models.backbones import EfficientFormer
from mmpretrain.models.backbones.efficientformer import Meta3D
from torch import nn

from ..registry import TAPS
from .base import Tap, TapPoints, inner_module
from .levit import interleaved_matrices


@TAPS.register_module()
class EfficientFormerTap(Tap):
    """Reads the transformer blocks of MMPretrain's ``EfficientFormer``.

    These are its ``Meta3D``, at the end of the last stage; blocks of convolutions are none.
    """

    probed = True
    points = TapPoints(embedding=(), attention='token_mixer', heads='token_mixer', matrices={})

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, EfficientFormer)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for block in self.backbone.network[-1]
                if isinstance(inner_module(block), Meta3D)]

    def count_prefix_tokens(self) -> int:
        return 0

    def points_of(self, block: nn.Module) -> TapPoints:
        attention = block.token_mixer
        return TapPoints((), 'token_mixer', 'token_mixer', {
            **interleaved_matrices('token_mixer.qkv', attention.num_heads, q=attention.key_dim,
                                   k=attention.key_dim, v=attention.d),
            'proj': ('token_mixer.proj', None), 'fc1': ('mlp.fc1', None), 'fc2': ('mlp.fc2', None)})
