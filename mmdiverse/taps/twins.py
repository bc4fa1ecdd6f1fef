"""Tap for MMPretrain's PCPVT and SVT, the two Twins."""
from collections.abc import Sequence
from itertools import accumulate
from math import prod

from mmpretrain.models.backbones import PCPVT
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import EMBED, Layer, TapPoints, fused_qkv_matrices
from .windows import WindowTap

LOCAL = TapPoints(
    embedding=('patch_embeds.0', ),
    attention='attn',
    heads='attn',
    matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))
GLOBAL = TapPoints(
    embedding=LOCAL.embedding,
    attention='attn',
    heads='attn',
    matrices={**LOCAL.matrices, 'q': ('attn.q', None), 'k': ('attn.kv', (0, 2)),
              'v': ('attn.kv', (1, 2))})


@TAPS.register_module()
class TwinsTap(WindowTap):
    """Reads MMPretrain's ``PCPVT`` and ``SVT``.

    Blocks are counted through all stages. All of ``PCPVT``, and every second one of ``SVT``, attend
    globally to keys of which a convolution makes fewer than queries. The others of ``SVT`` attend
    in windows, each an item of the batch at attention level.
    """

    probed = True
    points = LOCAL

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, PCPVT)  # from which SVT inherits

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.backbone.stages for block in stage]

    def count_prefix_tokens(self) -> int:
        return 0

    def patch_size(self, layer: Layer) -> Size:
        ends = accumulate(len(stage) for stage in self.backbone.stages)
        before = sum(end <= (0 if layer == EMBED else layer) for end in ends)
        side = prod(self.backbone.strides[:before + 1])
        return side, side

    def points_of(self, block: nn.Module) -> TapPoints:
        return GLOBAL if hasattr(block.attn, 'kv') else LOCAL

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int] | None:
        size = getattr(block.attn, 'window_size', None)
        return size and (size, 0)
