"""What a test knows of a family of backbones, apart from its tap."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from mmdiverse.taps import Tap, build_tap
from mmdiverse.taps.base import HEADS


@dataclass(frozen=True)
class Family:
    """A backbone, and where its parts are, said again apart from the tap.

    Attributes:
        name: Of the family in the names of tests.
        tap: Name of the registered tap.
        make: Builds the backbone.
        blocks: Path of the blocks, or of the stages that hold them.
        attention: Path of the attention in a block.
        qkv: Paths of the layers (or weights) in it that hold queries, keys and values: one of all
            three, one below the other, or three.
        proj: Path of the layer in it that the outputs of heads enter, ``(B, N, H d)``.
        fc: Paths of the two layers of the MLP in a block.
        fc1: What of the weight of the first of them is `fc1`: not the gates of a gated one.
        split: What of the weights at ``qkv`` are queries, keys and values, where they are not one
            below the other.
        prefix: Paths of the tokens before the patches.
        image_size: Side of its images.
        num_patches: Patches that they are cut into, in the first block.
        with_maps: Whether it has attention level.
        masks: Whether it leaves out patches, so that it is not known where the others were.
        places: Row and column of the tokens that a block attends to together, where blocks are not
            like MMPretrain's.
        output: What of a block's output are its tokens, ``(B, prefix + N, C)``.
        head_outputs: What of the input of ``proj`` are the outputs of heads, ``(B, N, H d)``; no
            function where others come between.
    """

    name: str
    tap: str
    make: Callable[[], nn.Module]
    blocks: str = 'layers'
    attention: str = 'attn'
    qkv: tuple[str, ...] = ('qkv', )
    proj: str = 'proj'
    fc: tuple[str, str] = ('ffn.layers.0.0', 'ffn.layers.1')
    fc1: Callable[[Tensor], Tensor] = lambda weight: weight
    split: Callable[..., Sequence[Tensor]] | None = None
    prefix: tuple[str, ...] = ('cls_token', )
    image_size: int = 12
    num_patches: int = 9
    with_maps: bool = True
    masks: bool = False
    places: Callable[[nn.Module, int, int], list[list[tuple[int, int]]]] | None = None
    output: Callable[[Any], Tensor] = lambda output: output
    head_outputs: Callable[[Tensor], Tensor] | None = lambda outputs: outputs

    def __str__(self) -> str:
        return self.name

    def build(self) -> nn.Module:
        """Build the backbone in evaluation mode, no parameter of which is zero or one."""
        torch.manual_seed(0)
        backbone = self.make()
        backbone.eval()  # not chained: MMPretrain's own return nothing
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.normal_(std=0.3)
        return backbone

    def images(self) -> Tensor:
        """A batch of three random images."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(3, 3, self.image_size, self.image_size, generator=generator)

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        """The blocks in order."""
        found = attrgetter(self.blocks)(backbone)
        if hasattr(found[0], 'blocks'):
            return [block for stage in found for block in stage.blocks]
        return list(found)

    def find_called(self, block: nn.Module) -> nn.Module:
        """What of a block the backbone calls to have its attention."""
        return block

    def find_attention(self, block: nn.Module) -> nn.Module:
        """The attention of a block."""
        return attrgetter(self.attention)(block)

    def count_heads(self, block: nn.Module) -> int:
        """How many heads it has."""
        return self.find_attention(block).num_heads

    def find_weights(self, block: nn.Module) -> list[Tensor]:
        """The parameters that hold queries, keys and values."""
        found = [attrgetter(path)(self.find_attention(block)) for path in self.qkv]
        return [getattr(part, 'weight', part) for part in found]

    def find_matrices(self, block: nn.Module) -> dict[str, Tensor]:
        """The six matrices of a block by name."""
        weights = self.find_weights(block)
        split = self.split or {1: lambda qkv: qkv.chunk(3), 2: lambda q, kv: (q, *kv.chunk(2)),
                               3: lambda *each: each}[len(weights)]
        q, k, v = split(*weights)
        fc1, fc2 = (block.get_submodule(path).weight for path in self.fc)
        return dict(q=q, k=k, v=v, fc1=self.fc1(fc1), fc2=fc2,
                    proj=self.find_attention(block).get_submodule(self.proj).weight)


def windows(high: int, wide: int, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Row and column of the tokens of each window, those that pad it included."""
    return [[(top + row, left + column) for row in range(high) for column in range(wide)]
            for top in range(0, rows, high) for left in range(0, columns, wide)]


def trained_before_blocks(tap: Tap, images: Tensor) -> set[nn.Parameter]:
    """The parameters that a loss on the input of the first block trains."""
    with tap.recording():
        tap.backbone(images)
        tap.record('patch', 'embed').vectors().square().sum().backward()
    return {parameter for parameter in tap.backbone.parameters() if parameter.grad is not None}


def everything(tap: Tap) -> list[tuple[str, int | str]]:
    """Requests for all that a tap can capture, but for maps that it refuses."""
    requests = [('patch', 'embed'), *(('patch', layer) for layer in range(len(tap.blocks)))]
    for layer, block in enumerate(tap.blocks):
        try:
            tap.check_attention(block)
        except ValueError:
            continue
        requests += [(source, layer) for source in HEADS]
    return requests


def attached(backbone: nn.Module) -> Tap:
    """The tap of a backbone, attached for everything."""
    tap = build_tap(backbone)
    tap.attach(everything(tap))
    return tap
