"""Tap for MMPretrain's TNT."""
from collections.abc import Sequence
from typing import Any

from mmpretrain.models.backbones import TNT
from torch import Tensor, nn

from ..image_mask import Size
from ..registry import TAPS
from .base import EMBED, Layer, Request, Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class TNTTap(Tap):
    """Reads MMPretrain's ``TNT`` (transformer in transformer): the outer blocks, on patches.

    The inner blocks are not read: their tokens are the pixels of one patch, and their attention
    looks at no other.
    """

    probed = True
    points = TapPoints(
        embedding=('pixel_embed', 'pixel_pos', 'norm1_proj', 'projection', 'norm2_proj',
                   'cls_token', 'patch_pos'),
        attention='outer_block.attn.attn',
        heads='outer_block.attn',
        matrices=fused_qkv_matrices('outer_block.attn.attn', 'outer_block.attn.attn.out_proj',
                                    'outer_block.ffn.layers.0.0', 'outer_block.ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, TNT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.layers)

    def count_prefix_tokens(self) -> int:
        return 1

    def patch_size(self, layer: Layer) -> Size:
        pixels = self.backbone.pixel_embed
        return tuple(step * count for step, count in zip(pixels.proj.stride,
                                                         pixels.new_patch_size))

    def block_input(self, args: tuple) -> Tensor:
        return args[1]

    def block_output(self, output: Any) -> Tensor:
        return output[1]

    def attach(self, requests: Sequence[Request], *args: Any) -> None:
        requests = list(requests)
        super().attach(requests, *args)
        readers = {0 if layer == EMBED else layer + 1
                   for source, layer in requests if source == 'patch'}
        self._handles += [block.register_forward_pre_hook(self._copy)
                          for index, block in enumerate(self.blocks) if index in readers]

    def _copy(self, block: nn.Module, args: tuple) -> tuple | None:
        """Hand over a copy of what was captured, because a block changes its tokens in place."""
        pixels, patches = args
        return (pixels, patches.clone()) if self._recording else None
