"""MMPretrain's EfficientFormer."""
from collections.abc import Sequence

from mmpretrain.models.backbones import EfficientFormer
from torch import Tensor, nn

from .family import Family


class EfficientFormerFamily(Family):
    """Blocks behind those of convolutions, in the last stage."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return list(backbone.network[3][-3:])


def split_efficientformer(qkv: Tensor) -> Sequence[Tensor]:
    """Queries, keys and values of eight heads, of which each has 32 queries and keys."""
    heads = qkv.unflatten(0, (8, -1))
    return [rows.flatten(0, 1) for rows in (heads[:, :32], heads[:, 32:64], heads[:, 64:])]


def efficientformer(num_convolutions: int = 1, **options: object) -> nn.Module:
    # Attention is made for 7 x 7 tokens, whatever the size of images.
    arch = dict(layers=[1, 1, 1, 3 + num_convolutions], embed_dims=[4, 4, 8, 8],
                downsamples=[False, True, True, True], vit_num=3)
    return EfficientFormer(arch=arch, drop_rate=0.1, drop_path_rate=0.1, **options)


FAMILIES = [
    EfficientFormerFamily('efficientformer', 'EfficientFormerTap', efficientformer,
                          attention='token_mixer', split=split_efficientformer,
                          fc=('mlp.fc1', 'mlp.fc2'), prefix=(), image_size=224, num_patches=49),
]
