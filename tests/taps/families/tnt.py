"""MMPretrain's TNT."""
from typing import Any

from mmpretrain.models.backbones import TNT
from torch import nn

from .family import Family


def tnt(**options: Any) -> nn.Module:
    # 3 x 3 patches of 2 x 2 pixels of the inner blocks.
    arch = dict(embed_dims_outer=16, embed_dims_inner=8, num_layers=3, num_heads_outer=2,
                num_heads_inner=4)
    return TNT(arch=arch, img_size=12, patch_size=4, first_stride=2, ffn_ratio=2, drop_rate=0.1,
               attn_drop_rate=0.1, drop_path_rate=0.1, **options)


class Outer(Family):
    """A family whose blocks change in place what they are given, and cannot be computed again."""

    def find_called(self, block: nn.Module) -> nn.Module:
        return block.outer_block


# torch's attention takes the weight of `proj` without calling it.
FAMILY = dict(tap='TNTTap', attention='outer_block.attn', qkv=('attn.in_proj_weight', ),
              proj='attn.out_proj', head_outputs=None, output=lambda output: output[1],
              fc=('outer_block.ffn.layers.0.0', 'outer_block.ffn.layers.1'))
FAMILIES = [
    Outer('tnt', make=tnt, **FAMILY),
    Outer('tnt-bias', make=lambda: tnt(qkv_bias=True), **FAMILY),
]
