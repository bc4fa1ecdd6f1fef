"""MMPretrain's XCiT."""
from typing import Any

from mmpretrain.models.backbones import XCiT
from torch import nn

from .family import Family


def xcit(**options: Any) -> nn.Module:
    backbone = XCiT(img_size=32, patch_size=8, embed_dims=16, depth=3, cls_attn_layers=1,
                    num_heads=2, mlp_ratio=2, drop_rate=0.1, attn_drop_rate=0.1,
                    drop_path_rate=0.1, **options)
    if backbone.use_pos_embed:  # else of single precision always
        backbone.pos_embed.token_projection.register_forward_pre_hook(
            lambda projection, args: args[0].to(projection.conv.weight.dtype))
    return backbone


XCIT = dict(tap='XCiTTap', blocks='xca_layers', prefix=(), image_size=32, num_patches=16,
            with_maps=False)
FAMILIES = [
    Family('xcit', make=xcit, **XCIT),
    Family('xcit-no-positions', make=lambda: xcit(use_pos_embed=False), **XCIT),
]
