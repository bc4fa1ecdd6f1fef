"""timm's SwinTransformer, SwinTransformerV2 and SwinTransformerV2Cr."""
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family
from .timm import fused


def swin(model_name: str = 'swin_tiny_patch4_window7_224', **options: Any) -> nn.Module:
    # 8 x 8 tokens in four windows, of which the second block shifts; then 4 x 4 in one.
    options = dict(dict(img_size=32, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4),
                        proj_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1), **options)
    return TIMMBackbone(model_name=model_name, **options)


def places(block: nn.Module, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Windows of tokens that are shifted first, and then padded with some that are nowhere."""
    (high, wide), (down, right) = block.window_size, block.shift_size

    def place(row: int, column: int) -> tuple[int, int]:
        if row >= rows or column >= columns:
            return rows, columns
        return (row + down) % rows, (column + right) % columns

    return [[place(top + row, left + column) for row in range(high) for column in range(wide)]
            for top in range(0, rows, high) for left in range(0, columns, wide)]


SWIN: dict[str, Any] = dict(
    tap='TimmSwinTransformerTap', blocks='timm_model.layers', fc=('mlp.fc1', 'mlp.fc2'), prefix=(),
    image_size=32, num_patches=64, places=places, output=lambda output: output.flatten(1, 2))
FAMILIES = [
    Family('timm-swin', make=swin, **SWIN),
    Family('timm-swin-fused', make=lambda: fused(swin), **SWIN),
    Family('timm-swin-oblong-windows', make=partial(swin, window_size=(4, 2)), **SWIN),
    Family('timm-swin-v2', make=partial(swin, 'swinv2_tiny_window8_256'), **SWIN),
    Family('timm-swin-v2-cr', make=partial(swin, 'swinv2_cr_tiny_224'),
           **{**SWIN, 'blocks': 'timm_model.stages'}),
]
# 6 x 6 tokens in windows of 4, then 3 x 3 in one.
PADDED = [
    Family('timm-swin-padded', make=lambda: fused(partial(swin, img_size=24)),
           **{**SWIN, 'image_size': 24, 'num_patches': 36}),
]
