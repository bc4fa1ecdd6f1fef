"""MMPretrain's MViT."""
from typing import Any

from mmpretrain.models.backbones import MViT
from torch import nn

from .family import Family


def mvit(**options: Any) -> nn.Module:
    # 8 x 8 tokens, which the second of three blocks pools to 4 x 4.
    arch = dict(embed_dims=8, num_layers=3, num_heads=1, downscale_indices=[1])
    return MViT(arch=arch, img_size=32, drop_path_rate=0.1, **options)


MVIT = dict(tap='MViTTap', blocks='blocks', fc=('mlp.fc1', 'mlp.fc2'), prefix=(), image_size=32,
            num_patches=64, output=lambda output: output[0])
FAMILIES = [
    Family('mvit', make=mvit, head_outputs=None, **MVIT),
    Family('mvit-no-residual-pooling', make=lambda: mvit(residual_pooling=False), **MVIT),
    Family('mvit-position-embedding',
           make=lambda: mvit(residual_pooling=False, rel_pos_spatial=False, use_abs_pos_embed=True,
                             dim_mul_in_attention=False, adaptive_kv_stride=2), **MVIT),
]
