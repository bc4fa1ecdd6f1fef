"""timm's EdgeNeXt."""
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family


class EdgeNeXtFamily(Family):
    """Blocks among those of convolutions."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        stages = backbone.timm_model.stages
        return [stages[1].blocks[1], *stages[2].blocks, *stages[3].blocks]


def edgenext(**options: Any) -> nn.Module:
    # Maps of 16 x 16, then 8 x 8, 4 x 4 and 2 x 2.
    return TIMMBackbone(
        model_name='edgenext_xx_small', dims=(8, 16, 24, 32), depths=(1, 2, 2, 1),
        global_block_counts=(0, 1, 2, 1), heads=(2, 2, 2, 2), expand_ratio=2, ls_init_value=1.,
        drop_path_rate=0.1, **options)


EDGENEXT: dict[str, Any] = dict(
    tap='TimmEdgeNeXtTap', blocks='timm_model.stages', attention='xca',
    fc=('mlp.fc1', 'mlp.fc2'), prefix=(), image_size=64, num_patches=64, with_maps=False,
    output=lambda output: output.flatten(2).mT)
FAMILIES = [EdgeNeXtFamily('timm-edgenext', make=edgenext, **EDGENEXT)]
