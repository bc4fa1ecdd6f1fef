"""MMPretrain's MobileViT."""
from mmpretrain.models.backbones import MobileViT
from torch import nn

from .family import Family


class MobileViTFamily(Family):
    """Blocks within those of convolutions."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        first, second = (layer[1].global_rep for layer in backbone.layers[1:])
        return [first[0], first[1], second[0]]


def mobilevit() -> nn.Module:
    # Four groups of 4 x 4 pixels, then of 2 x 2.
    arch = [['mobilenetv2', 8, 1, 1, 2], ['mobilevit', 12, 2, 16, 24, 2, 2],
            ['mobilevit', 16, 2, 16, 24, 1, 2]]
    return MobileViT(arch=arch, stem_channels=8, out_indices=(2, ))


FAMILIES = [
    MobileViTFamily('mobilevit', 'MobileViTTap', mobilevit, prefix=(), image_size=32,
                    num_patches=64,
                    output=lambda output: output.unflatten(0, (-1, 4)).flatten(1, 2)),
]
