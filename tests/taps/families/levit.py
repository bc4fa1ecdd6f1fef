"""MMPretrain's LeViT."""
from collections.abc import Sequence
from typing import Any

from mmpretrain.models.backbones import LeViT
from torch import Tensor, nn

from .family import Family


class SmallLeViT(LeViT):
    """The original refuses every `arch` that is no name."""

    arch_zoo = {'small': dict(embed_dims=[8, 16], num_heads=[2, 2], depths=[2, 1],
                              key_dims=[4, 4])}


class Parts(nn.ModuleList):
    """An attention and the MLP behind it."""

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        return self[-1].register_forward_hook(*args, **kwargs)


class LeViTFamily(Family):
    """Blocks in two parts."""

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        return [Parts(stage[index:index + 2]) for stage in backbone.stages
                for index in range(0, len(stage), 2)]

    def find_called(self, block: nn.Module) -> nn.Module:
        return block[0]

    def find_attention(self, block: nn.Module) -> nn.Module:
        return getattr(block[0], 'block', block[0])

    def find_weights(self, block: nn.Module) -> list[Tensor]:
        attention = self.find_attention(block)
        layers = [attention.qkv] if hasattr(attention, 'qkv') else [attention.q[1], attention.kv]
        return [weight_of(layer) for layer in layers]

    def find_matrices(self, block: nn.Module) -> dict[str, Tensor]:
        q, k, v = self.split(*self.find_weights(block))
        mlp, proj = block[1].block, self.find_attention(block).proj
        return dict(q=q, k=k, v=v, proj=weight_of(proj[1]), fc1=weight_of(mlp.linear1),
                    fc2=weight_of(mlp.linear2))


def weight_of(layer: nn.Module) -> Tensor:
    """Of a linear layer with batch normalization, or with that put into it."""
    return getattr(layer, 'linear', layer).weight


def split_levit(*weights: Tensor) -> Sequence[Tensor]:
    """Queries, keys and values of two heads, where each has four queries and keys."""
    heads = weights[-1].unflatten(0, (2, -1))
    if len(weights) == 2:
        return weights[0], heads[:, :4].flatten(0, 1), heads[:, 4:].flatten(0, 1)
    return [rows.flatten(0, 1) for rows in (heads[:, :4], heads[:, 4:8], heads[:, 8:])]


def levit(**options: Any) -> nn.Module:
    # 4 x 4 tokens; the third block makes 2 x 2 of them.
    return SmallLeViT('small', img_size=64, drop_path_rate=0.1, **options)


LEVIT = dict(tap='LeViTTap', blocks='stages', split=split_levit, prefix=(), image_size=64,
             num_patches=16)
FAMILIES = [
    LeViTFamily('levit', make=levit, **LEVIT),
    LeViTFamily('levit-deployed', make=lambda: levit(deploy=True), **LEVIT),
]
