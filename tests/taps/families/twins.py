"""MMPretrain's PCPVT and SVT."""
from typing import Any

from mmpretrain.models.backbones import PCPVT, SVT
from torch import Tensor, nn

from .family import Family


class TwinsFamily(Family):
    """Blocks in lists of lists, of two kinds."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [block for stage in backbone.stages for block in stage]

    def find_weights(self, block: nn.Module) -> list[Tensor]:
        fused = hasattr(block.attn, 'qkv')
        return [block.attn.get_submodule(path).weight
                for path in (('qkv', ) if fused else ('q', 'kv'))]


def twins(type: type = PCPVT, **arch: Any) -> nn.Module:
    # 8 x 8 tokens, then 4 x 4.
    arch = dict(dict(embed_dims=[8, 16], depths=[2, 2], num_heads=[2, 4], patch_sizes=[4, 2],
                     strides=[4, 2], mlp_ratios=[2, 2], sr_ratios=[2, 1]), **arch)
    return type(arch=arch, out_indices=(1, ), qkv_bias=True, drop_rate=0.1, attn_drop_rate=0.1,
                drop_path_rate=0.1)


TWINS = dict(tap='TwinsTap', blocks='stages', prefix=(), image_size=32, num_patches=64)
FAMILIES = [
    TwinsFamily('pcpvt', make=twins, **TWINS),
    # Its windows are joined before the projection.
    TwinsFamily('svt', make=lambda: twins(SVT, window_sizes=[4, 2]), head_outputs=None, **TWINS),
]
