"""timm's VOLO, alone: the arch of one by name cannot be changed."""
from typing import Any

from timm.models.volo import VOLO
from torch import nn

from .family import Family


class VOLOFamily(Family):
    """Blocks in stages with something between."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [*backbone.network[0], *backbone.network[2]]


def volo(**options: Any) -> nn.Module:
    # 4 x 4 tokens, then 2 x 2.
    options = dict(dict(layers=[2, 1], num_heads=[2, 4], outlook_attention=(False, False)),
                   **options)
    return VOLO(img_size=32, embed_dims=[16, 32], downsamples=(True, False), stem_hidden_dim=8,
                num_classes=0, attn_drop_rate=0.1, drop_path_rate=0.1, **options)


FAMILIES = [
    # Without outlookers, which have neither maps nor queries.
    VOLOFamily('timm-volo', 'TimmVOLOTap', volo, fc=('mlp.fc1', 'mlp.fc2'), prefix=(),
               image_size=32, num_patches=16, output=lambda output: output.flatten(1, 2),
               head_outputs=lambda outputs: outputs.flatten(1, 2)),
]
