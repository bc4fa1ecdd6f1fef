"""timm's TinyVit."""
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family
from .timm import unfused
from .tinyvit import split_tinyvit


class TinyVitFamily(Family):
    """Blocks behind a stage of convolutions."""

    def build(self) -> nn.Module:
        backbone = super().build()
        for block in self.find_blocks(backbone):
            # In evaluation it keeps its biases, which activation checkpointing does not know.
            block.attn.training = True
        return backbone

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [block for stage in backbone.timm_model.stages[1:] for block in stage.blocks]


def tiny_vit(window_size: int = 3, **options: Any) -> nn.Module:
    # Of tokens with attention 6 x 6, in four windows, then 3 x 3 in one.
    return TIMMBackbone(
        model_name='tiny_vit_5m_224', embed_dims=(8, 16, 16), num_heads=(2, 2, 2),
        depths=(1, 2, 1), window_sizes=(window_size, ) * 3, mlp_ratio=2, proj_drop_rate=0.1,
        drop_path_rate=0.1, **options)


TINY_VIT: dict[str, Any] = dict(
    tap='TimmTinyVitTap', blocks='timm_model.stages', split=split_tinyvit,
    fc=('mlp.fc1', 'mlp.fc2'), prefix=(), image_size=48, num_patches=36,
    output=lambda output: output.flatten(1, 2))
FAMILIES = [
    TinyVitFamily('timm-tiny-vit', make=tiny_vit, **TINY_VIT),
    TinyVitFamily('timm-tiny-vit-unfused', make=lambda: unfused(tiny_vit), **TINY_VIT),
]
# 6 x 6 tokens in windows of 4, then 3 x 3 in one.
PADDED = [TinyVitFamily('timm-tiny-vit-padded', make=lambda: tiny_vit(4), **TINY_VIT)]
