"""Tap for MMPretrain's MViT."""
from collections.abc import Sequence
from math import prod
from typing import Any

from mmpretrain.models.backbones import MViT
from torch import Tensor, nn

from ..image_mask import Size
from ..registry import TAPS
from .base import EMBED, Layer, Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class MViTTap(Tap):
    """Reads MMPretrain's ``MViT``, version 2.

    A block that pools its queries gives fewer tokens than it takes. Keys and values are pooled too,
    and their number differs from that of queries. Of heads, ``heads='outputs'`` are maps times
    values; the queries, which ``residual_pooling`` adds to them, are not part of it.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'pos_embed'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, MViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.blocks)

    def count_prefix_tokens(self) -> int:
        return 0

    def patch_size(self, layer: Layer) -> Size:
        pooled = prod(block.attn.pool_q.stride[0]
                      for block in self.blocks[:0 if layer == EMBED else layer + 1])
        rows, columns = self.backbone.patch_embed.projection.stride
        return rows * pooled, columns * pooled

    def block_output(self, output: Any) -> Tensor:
        return output[0]
