"""timm's Hiera."""
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family
from .timm import unfused


class HieraFamily(Family):
    """Its attention has `heads`."""

    def count_heads(self, block: nn.Module) -> int:
        return block.attn.heads


def hiera(**options: Any) -> nn.Module:
    # 8 x 8 tokens in four mask units, pooled to 4 x 4, and then to 2 x 2 that attend to all.
    return TIMMBackbone('hiera_tiny_224', img_size=32, embed_dim=8, num_heads=2, stages=(1, 1, 2),
                        q_pool=2, mask_unit_size=(4, 4), mask_unit_attn=(True, True, False),
                        drop_path_rate=0.1, **options)


HIERA: dict[str, Any] = dict(
    tap='TimmHieraTap', blocks='timm_model.blocks', fc=('mlp.fc1', 'mlp.fc2'), prefix=(),
    image_size=32, num_patches=64, head_outputs=None)  # mask units are joined before the projection
FAMILIES = [
    HieraFamily('timm-hiera', make=hiera, **HIERA),
    HieraFamily('timm-hiera-unfused', make=lambda: unfused(hiera), **HIERA),
    HieraFamily('timm-hiera-window-positions', make=partial(
        hiera, abs_win_pos_embed=True, global_pos_size=(2, 2)), **HIERA),
]
