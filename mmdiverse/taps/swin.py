"""Tap for MMPretrain's SwinTransformer."""
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import ShiftWindowMSA, WindowMSA
from torch import Tensor, nn
from torch.nn import functional as F

from ..image_mask import Size
from ..records import AttentionRecord
from ..registry import TAPS
from .base import EMBED, HEADS, Layer, Request, Tap, TapPoints, fused_qkv_matrices, inner_module

POINTS = TapPoints(
    embedding=('patch_embed', 'absolute_pos_embed'),
    attention='attn.w_msa.softmax',
    heads='attn.w_msa',
    matrices=fused_qkv_matrices('attn.w_msa.qkv', 'attn.w_msa.proj', 'ffn.layers.0.0',
                                'ffn.layers.1'))


@TAPS.register_module()
class SwinTransformerTap(Tap):
    """Reads MMPretrain's ``SwinTransformer``.

    Blocks are counted through all stages, so ``layers=-1`` is the last block of the last stage.
    Windowed attention computes its softmax maps anyway, so records hold them as they are, one
    item of the batch per window. Where windows do not divide the tokens, those that pad them are
    left out. Stages differ in the number and width of tokens: losses between
    two layers need both in one stage.
    """

    points = POINTS
    attention_type: type = WindowMSA

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self._grids: dict[Layer, Size] = {}

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, SwinTransformer)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.backbone.stages for block in stage.blocks]

    def count_prefix_tokens(self) -> int:
        return 0

    def check_attention(self, block: nn.Module) -> None:
        attention = inner_module(block.attn.w_msa)
        if not isinstance(attention, self.attention_type):
            raise ValueError(
                f'attention of {type(self.backbone).__name__} is a '
                f'{type(attention).__name__}, whose maps this tap does not know; drop the '
                "terms with `on='attention'`")

    def patch_size(self, layer: Layer) -> Size:
        rows, columns = self.backbone.patch_embed.projection.stride
        for merging in self.mergings_before(0 if layer == EMBED else layer):
            step = merging.sampler.stride
            rows, columns = rows * step[0], columns * step[1]
        return rows, columns

    def mergings_before(self, layer: int) -> list[nn.Module]:
        """Where patches are merged before a block."""
        ends = accumulate(len(stage.blocks) for stage in self.backbone.stages)
        return [stage.downsample for stage, end in zip(self.backbone.stages, ends) if end <= layer]

    def attach(self, requests: Sequence[Request], *args: Any) -> None:
        requests = list(requests)
        super().attach(requests, *args)
        for layer in {layer for source, layer in requests if source in HEADS}:
            self._handles.append(
                self.blocks[layer].register_forward_pre_hook(self._note_grid(layer)))

    def _note_grid(self, layer: int) -> Callable[[nn.Module, tuple], None]:
        def hook(block: nn.Module, args: tuple) -> None:
            if self._recording:
                self._grids[layer] = tuple(args[1])
        return hook

    def token_mask(self, source: str, layer: Layer) -> Tensor | None:
        mask = super().token_mask(source, layer)
        if source not in HEADS:
            return mask
        grid, attention = self._grids[layer], self.blocks[layer].attn
        if mask is None:
            if not any(side % attention.window_size for side in grid):
                return None
            windows = math.prod(math.ceil(side / attention.window_size) for side in grid)
            mask = torch.ones(len(self._read(source, layer)) // windows, math.prod(grid),
                              dtype=torch.bool)
        return _partition(mask.unflatten(1, grid), attention)

    def attention_record(self, block: nn.Module, captured: Tensor, layer: int) -> AttentionRecord:
        return AttentionRecord(layer, maps=captured)


def _partition(mask: Tensor, attention: ShiftWindowMSA) -> Tensor:
    """Of the tokens of whole images, ``(B, rows, columns)``, those of each window, ``(b, w * w)``.

    As the attention does it, with False where it pads.
    """
    size = attention.window_size
    rows, columns = mask.shape[1:]
    # As in the original, what is a single window is not shifted.
    single = min(rows, columns) == size and not attention.pad_small_map
    shift = 0 if single else attention.shift_size
    padded = F.pad(mask, (0, -columns % size, 0, -rows % size)).roll((-shift, -shift), (1, 2))
    return attention.window_partition(padded.unsqueeze(-1), size).flatten(1)
