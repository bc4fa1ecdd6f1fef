"""Tap for MMPretrain's LeViT."""
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from mmpretrain.models.backbones import LeViT
from mmpretrain.models.backbones.levit import Attention, AttentionSubsample
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..registry import TAPS
from .base import Place, Tap, TapPoints, inner_module


class LeViTBlock(nn.Module):
    """An attention and, if there is one, the MLP behind it, which LeViT calls one by one.

    Args:
        attention (nn.Module): What the backbone calls of the attention.
        mlp (nn.Module, optional): What it calls of the MLP.
    """

    def __init__(self, attention: nn.Module, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last = attention, attention if mlp is None else mlp
        self.attn = getattr(attention, 'block', attention)  # of that which halves, itself
        if mlp is not None:
            self.mlp = mlp.block

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        """Register a hook on what is called first."""
        return self.first.register_forward_pre_hook(*args, **kwargs)

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        """Register a hook on what is called last."""
        return self.last.register_forward_hook(*args, **kwargs)


@TAPS.register_module()
class LeViTTap(Tap):
    """Reads MMPretrain's ``LeViT``.

    Blocks are counted through all stages; the first of every stage but the first has fewer tokens
    than it takes, and more keys than queries. Weights are those of the linear layers, without the
    batch normalization behind each.
    """

    probed = True
    points = TapPoints(embedding=('patch_embed', ), attention='attn', heads='attn', matrices={})

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, LeViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        blocks: list[list[nn.Module]] = []
        for part in (part for stage in self.backbone.stages for part in stage):
            attention = inner_module(getattr(part, 'block', part))
            if isinstance(attention, (Attention, AttentionSubsample)):
                blocks.append([part])
            else:
                blocks[-1].append(part)
        return [LeViTBlock(*parts) for parts in blocks]

    def count_prefix_tokens(self) -> int:
        return 0

    def points_of(self, block: nn.Module) -> TapPoints:
        attention, linear = block.attn, '' if self.backbone.deploy else '.linear'
        sizes = dict(k=attention.key_dim, v=attention.d)
        if hasattr(attention, 'qkv'):
            matrices = interleaved_matrices(f'attn.qkv{linear}', attention.num_heads,
                                            q=attention.key_dim, **sizes)
        else:
            matrices = {'q': (f'attn.q.1{linear}', None),
                        **interleaved_matrices(f'attn.kv{linear}', attention.num_heads, **sizes)}
        matrices['proj'] = (f'attn.proj.1{linear}', None)
        if hasattr(block, 'mlp'):
            matrices.update(fc1=(f'mlp.linear1{linear}', None), fc2=(f'mlp.linear2{linear}', None))
        return TapPoints(self.points.embedding, 'attn', 'attn', matrices)


def interleaved_matrices(path: str, num_heads: int, **sizes: int) -> dict[str, tuple[str, Place]]:
    """Matrices in one linear layer that holds head after head, of each the rows of all matrices.

    Args:
        path (str): The layer.
        num_heads (int): Heads in it.
        **sizes (int): By name of the matrix, the rows of it in a head, in their order.
    """
    ends = accumulate(sizes.values())
    return {name: (path, partial(_rows_of_heads, num_heads, end - size, end))
            for (name, size), end in zip(sizes.items(), ends)}


def _rows_of_heads(num_heads: int, start: int, end: int, weight: Tensor) -> Tensor:
    return weight.unflatten(0, (num_heads, -1))[:, start:end].flatten(0, 1)
