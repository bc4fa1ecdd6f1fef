"""Tap for MMPretrain's EdgeNeXt."""
from collections.abc import Iterator, Sequence

from mmpretrain.models.backbones import EdgeNeXt
from mmpretrain.models.backbones.edgenext import SDTAEncoder
from torch import nn

from ..registry import TAPS
from .base import Tap, TapPoints, fused_qkv_matrices, inner_module


@TAPS.register_module()
class EdgeNeXtTap(Tap):
    """Reads the transformer blocks of MMPretrain's ``EdgeNeXt`` at patch and weight level.

    These are its ``SDTAEncoder``, counted through all stages; blocks of convolutions are none. They
    attend from channels to channels, so that there are no maps of tokens.
    """

    probed = True
    layout = 'BCHW'
    points = TapPoints(
        embedding=(),  # as the stages have it
        attention='csa',
        heads='csa',
        matrices=fused_qkv_matrices('csa.qkv', 'csa.proj', 'pointwise_conv1', 'pointwise_conv2'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, EdgeNeXt)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.backbone.stages for block in stage
                if isinstance(inner_module(block), SDTAEncoder)]

    def count_prefix_tokens(self) -> int:
        return 0

    def embedding_parameters(self) -> Iterator[nn.Parameter]:
        for merging, stage in zip(self.backbone.downsample_layers, self.backbone.stages):
            yield from merging.parameters()
            for block in stage:
                if block is self.blocks[0]:
                    return
                yield from block.parameters()
            if self.backbone.pos_embed:  # added behind the first stage
                yield from self.backbone.pos_embed.parameters()

    def check_attention(self, block: nn.Module) -> None:
        raise ValueError('EdgeNeXt attends from channels to channels, so its blocks have no '
                         "attention maps of tokens; drop the terms with `on='attention'`")
