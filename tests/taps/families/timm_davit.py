"""timm's DaVit."""
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family, windows
from .timm import unfused


class DaVitFamily(Family):
    """Blocks of two, one with windows and one with channels."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [part for stage in backbone.timm_model.stages for block in stage.blocks
                for part in block]


def places(block: nn.Module, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Windows of tokens, those that pad them included."""
    return windows(*getattr(block, 'window_size', (rows, columns)), rows, columns)


def davit(**options: Any) -> nn.Module:
    # 8 x 8 tokens in four windows, then 4 x 4 in one.
    return TIMMBackbone(model_name='davit_tiny', embed_dims=(8, 16), depths=(1, 1),
                        num_heads=(2, 4), **{**dict(window_size=4, mlp_ratio=2), **options})


DAVIT: dict[str, Any] = dict(
    tap='TimmDaVitTap', blocks='timm_model.stages', fc=('mlp.fc1', 'mlp.fc2'), prefix=(),
    image_size=32, num_patches=64, places=places, output=lambda output: output.flatten(2).mT)
FAMILIES = [
    DaVitFamily('timm-davit', make=davit, **DAVIT),
    DaVitFamily('timm-davit-unfused', make=lambda: unfused(davit), **DAVIT),
    DaVitFamily('timm-davit-fl', make=partial(davit, channel_attn_v2=True, cpe_act=True), **DAVIT),
]
# 8 x 8 tokens in windows of 3, then 4 x 4.
PADDED = [DaVitFamily('timm-davit-padded', make=partial(davit, window_size=3), **DAVIT)]
