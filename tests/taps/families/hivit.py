"""MMPretrain's HiViT."""
from typing import Any

from mmpretrain.models.backbones import HiViT
from mmpretrain.models.selfsup import MAEHiViT
from torch import nn

from .family import Family
from .vit import masks_alike


class MainStage(Family):
    """A family of which only the last blocks have attention."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return list(backbone.blocks[-backbone.num_main_blocks:])


def hivit(type: type = HiViT, **options: Any) -> nn.Module:
    # 3 x 3 patches, of 2 x 2 parts in two blocks before the main stage.
    arch = dict(embed_dims=16, depths=[1, 4], num_heads=2)
    return type(arch=arch, img_size=12, patch_size=4, inner_patches=2, out_indices=[3],
                drop_rate=0.1, drop_path_rate=0.1, **options)


FAMILY = dict(tap='HiViTTap', blocks='blocks', fc=('mlp.fc1', 'mlp.fc2'), prefix=())
FAMILIES = [
    MainStage('hivit', make=lambda: hivit(attn_drop_rate=0.1), **FAMILY),
    MainStage('hivit-relative-positions', make=lambda: hivit(
        ape=False, rpe=True, attn_drop_rate=0.1, layer_scale_init_value=0.1), **FAMILY),
    MainStage('hivit-mae', num_patches=4, masks=True,
              make=lambda: masks_alike(hivit(MAEHiViT, mask_ratio=0.5)), **FAMILY),
]
