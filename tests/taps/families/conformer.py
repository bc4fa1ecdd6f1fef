"""MMPretrain's Conformer."""
from itertools import chain
from typing import Any

from mmpretrain.models.backbones import Conformer
from torch import Tensor, nn

from .family import Family


class FlatConformer(Conformer):
    """Gives both of its branches in one tuple, as the contract has it."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(chain(*super().forward(x)))


class ConformerFamily(Family):
    """Blocks beside convolutions."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [backbone.trans_1, backbone.conv_trans_2.trans_block,
                backbone.conv_trans_3.trans_block]


def conformer(**options: Any) -> nn.Module:
    arch = dict(embed_dims=16, depths=3, num_heads=2, channel_ratio=1)
    return FlatConformer(arch=arch, base_channels=8, mlp_ratio=2, drop_path_rate=0.1, **options)


CONFORMER = dict(tap='ConformerTap', blocks='trans_1', image_size=48, num_patches=9)
FAMILIES = [
    ConformerFamily('conformer', make=conformer, **CONFORMER),
    ConformerFamily('conformer-no-class-token', make=lambda: conformer(with_cls_token=False),
                    **{**CONFORMER, 'prefix': ()}),
]
