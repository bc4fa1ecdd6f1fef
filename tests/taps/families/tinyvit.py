"""MMPretrain's TinyViT."""
from collections.abc import Sequence
from typing import Any

from mmpretrain.models.backbones import TinyViT
from torch import Tensor, nn

from .family import Family


class TinyViTFamily(Family):
    """Blocks behind a stage of convolutions."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [block for stage in backbone.stages[1:] for block in stage.blocks]


def split_tinyvit(qkv: Tensor) -> Sequence[Tensor]:
    """Queries, keys and values of two heads, each with eight of all."""
    return [rows.flatten(0, 1) for rows in qkv.unflatten(0, (2, 3, 8)).unbind(1)]


def tinyvit(window_size: int = 3, **options: Any) -> nn.Module:
    # Of tokens with attention 6 x 6, in four windows, then 3 x 3 in one.
    arch = dict(channels=[8, 16, 16], num_heads=[2, 2, 2], depths=[1, 2, 1])
    return TinyViT(arch=arch, img_size=(48, 48), window_size=[window_size] * 3, mlp_ratio=2,
                   drop_rate=0.1, drop_path_rate=0.1, out_indices=[2], **options)


TINYVIT = dict(tap='TinyViTTap', blocks='stages', split=split_tinyvit, fc=('mlp.fc1', 'mlp.fc2'),
               prefix=(), image_size=48, num_patches=36)
FAMILIES = [TinyViTFamily('tinyvit', make=tinyvit, **TINYVIT)]
