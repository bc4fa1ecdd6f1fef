"""MMPretrain's EdgeNeXt."""
from typing import Any

from mmpretrain.models.backbones import EdgeNeXt
from mmpretrain.models.utils import PositionEncodingFourier
from torch import nn

from .family import Family


class EdgeNeXtFamily(Family):
    """Blocks among those of convolutions."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [backbone.stages[1][1], *backbone.stages[2]]


def edgenext(**options: Any) -> nn.Module:
    # Maps of 16 x 16, then 8 x 8, then 4 x 4.
    arch = dict(channels=[8, 16, 24], depths=[1, 2, 2], num_heads=[2, 2, 2])
    backbone = EdgeNeXt(arch=arch, global_blocks=[0, 1, 2], mlp_ratio=2, drop_path_rate=0.1,
                        layer_scale_init_value=1., out_indices=[2], **options)
    for module in backbone.modules():
        if isinstance(module, PositionEncodingFourier):  # else of single precision always
            module.proj.register_forward_pre_hook(lambda proj, args: args[0].to(proj.weight.dtype))
    return backbone


EDGENEXT = dict(tap='EdgeNeXtTap', blocks='stages', attention='csa',
                fc=('pointwise_conv1', 'pointwise_conv2'), prefix=(), image_size=64,
                num_patches=64, with_maps=False, output=lambda output: output.flatten(2).mT)
FAMILIES = [
    EdgeNeXtFamily('edgenext', make=edgenext, **EDGENEXT),
    EdgeNeXtFamily('edgenext-positions', make=lambda: edgenext(use_pos_embd_global=True),
                   **EDGENEXT),
]
