"""timm's CoaT-Lite, alone: MMPretrain's TIMMBackbone cannot hold it."""
from timm import create_model
from torch import nn

from .family import Family


class CoaTFamily(Family):
    """Blocks in lists of their own."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [block for stage in range(1, 5)
                for block in getattr(backbone, f'serial_blocks{stage}')]


def coat() -> nn.Module:
    # 16 x 16 tokens, then 8 x 8, 4 x 4 and 2 x 2.
    return create_model('coat_lite_tiny', img_size=64, embed_dims=(16, 16, 16, 16),
                        serial_depths=(2, 1, 1, 1), num_classes=0, proj_drop_rate=0.1,
                        attn_drop_rate=0.1, drop_path_rate=0.1)


FAMILIES = [
    CoaTFamily('timm-coat', 'TimmCoaTTap', coat, attention='factoratt_crpe',
               fc=('mlp.fc1', 'mlp.fc2'), prefix=('cls_token1', ), image_size=64, num_patches=256,
               with_maps=False),
]
