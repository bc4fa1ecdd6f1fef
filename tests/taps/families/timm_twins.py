"""timm's Twins."""
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import Tensor, nn

from .family import Family, windows
from .timm import unfused


class TwinsFamily(Family):
    """Blocks in lists of lists, of two kinds."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [block for stage in backbone.timm_model.blocks for block in stage]

    def find_weights(self, block: nn.Module) -> list[Tensor]:
        paths = ('qkv', ) if hasattr(block.attn, 'qkv') else ('q', 'kv')
        return [block.attn.get_submodule(path).weight for path in paths]


def twins(model_name: str = 'twins_pcpvt_small', **options: Any) -> nn.Module:
    # 8 x 8 tokens, then 4 x 4.
    return TIMMBackbone(
        model_name=model_name, img_size=32, embed_dims=(8, 16), num_heads=(2, 4), depths=(2, 2),
        sr_ratios=(2, 1), mlp_ratios=(2, 2), pos_drop_rate=0.1, proj_drop_rate=0.1,
        attn_drop_rate=0.1, drop_path_rate=0.1, **options)


def places(block: nn.Module, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Windows of tokens, those that pad them included."""
    side = getattr(block.attn, 'ws', rows)
    return windows(side, side, rows, columns)


TWINS: dict[str, Any] = dict(
    tap='TimmTwinsTap', blocks='timm_model.blocks', fc=('mlp.fc1', 'mlp.fc2'), prefix=(),
    image_size=32, num_patches=64, places=places)
svt = partial(twins, 'twins_svt_small', wss=(4, 2))
FAMILIES = [
    TwinsFamily('timm-pcpvt', make=twins, **TWINS),
    # Windows are joined before the projection.
    TwinsFamily('timm-svt', make=svt, head_outputs=None, **TWINS),
    TwinsFamily('timm-svt-unfused', make=lambda: unfused(svt), head_outputs=None, **TWINS),
]
# 8 x 8 tokens in windows of 3, then 4 x 4.
PADDED = [TwinsFamily('timm-svt-padded', make=partial(svt, wss=(3, 3)), **TWINS)]
