"""MMPretrain's DaViT."""
from typing import Any

from mmpretrain.models.backbones import DaViT
from torch import nn

from .family import Family


class DaViTFamily(Family):
    """Blocks of two, one with windows and one with channels."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [part for stage in backbone.stages for block in stage.blocks
                for part in (block.spatial_block, block.channel_block)]

    def find_attention(self, block: nn.Module) -> nn.Module:
        return getattr(block.attn, 'w_msa', block.attn)


def davit(**options: Any) -> nn.Module:
    # 8 x 8 tokens in four windows, then 4 x 4 in one.
    arch = dict(embed_dims=8, depths=[1, 1], num_heads=[2, 4])
    return DaViT(arch=arch, patch_size=2, window_size=4, ffn_ratio=2, drop_path_rate=0.1,
                 out_indices=(1, ), **options)


DAVIT = dict(tap='DaViTTap', blocks='stages', prefix=(), image_size=16, num_patches=64)
FAMILIES = [DaViTFamily('davit', make=davit, **DAVIT)]
