"""timm's Levit."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import Tensor, nn

from .family import Family


def split_heads(*weights: Tensor) -> Sequence[Tensor]:
    """Queries, keys and values of two heads, where each has four queries and keys."""
    heads = weights[-1].unflatten(0, (2, -1))
    if len(weights) == 2:
        return weights[0], heads[:, :4].flatten(0, 1), heads[:, 4:].flatten(0, 1)
    return [rows.flatten(0, 1) for rows in (heads[:, :4], heads[:, 4:8], heads[:, 8:])]


@dataclass(frozen=True)
class LevitFamily(Family):
    """Blocks of two kinds, whose layers are linear, or convolutions."""

    proj: str = 'proj.ln.linear'
    fc: tuple[str, str] = ('mlp.ln1.linear', 'mlp.ln2.linear')
    split: Callable[..., Sequence[Tensor]] = split_heads

    def build(self) -> nn.Module:
        backbone = super().build()
        for block in self.find_blocks(backbone):
            # In evaluation it keeps its biases, which activation checkpointing does not know.
            self.find_attention(block).training = True
        return backbone

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        first, second = backbone.timm_model.stages
        return [*first.blocks, second.downsample, *second.blocks]

    def find_attention(self, block: nn.Module) -> nn.Module:
        return getattr(block, 'attn', getattr(block, 'attn_downsample', None))

    def find_weights(self, block: nn.Module) -> list[Tensor]:
        attention = self.find_attention(block)
        layers = [attention.qkv] if hasattr(attention, 'qkv') else [attention.q.ln, attention.kv]
        return [layer.linear.weight for layer in layers]

    def find_matrices(self, block: nn.Module) -> dict[str, Tensor]:
        weights = [weight.flatten(1) for weight in self.find_weights(block)]
        rest = dict(proj=self.find_attention(block).proj.ln, fc1=block.mlp.ln1, fc2=block.mlp.ln2)
        return dict(zip('qkv', self.split(*weights)),
                    **{name: layer.linear.weight.flatten(1) for name, layer in rest.items()})


def levit(model_name: str = 'levit_128s', **options: Any) -> nn.Module:
    # 4 x 4 tokens, of which the third block makes 2 x 2.
    return TIMMBackbone(model_name=model_name, img_size=64, embed_dim=(8, 16), key_dim=4,
                        num_heads=(2, 2), depth=(2, 1), drop_path_rate=0.1, **options)


# An activation comes before its projection.
LEVIT: dict[str, Any] = dict(tap='TimmLevitTap', prefix=(), image_size=64, num_patches=16,
                             head_outputs=None)
FAMILIES = [
    LevitFamily('timm-levit', make=levit, **LEVIT),
    LevitFamily('timm-levit-conv', make=partial(levit, 'levit_conv_128s'),
                output=lambda output: output.flatten(2).mT, **LEVIT),
]
