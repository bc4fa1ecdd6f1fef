"""What taps share whose attention works in windows."""
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmpretrain.models.utils import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from ..image_mask import Size
from .base import HEADS, Layer, Request, Tap


class WindowTap(Tap):
    """A tap of blocks that cut their tokens into windows, each an item of the batch of attention.

    Where windows do not divide the tokens, those that pad them are left out of records.

    Attributes:
        pads_first (bool): Whether tokens are padded before they are shifted, or after it.
    """

    pads_first = True

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        #: Of each layer the number of images, and the rows and columns of their tokens.
        self._grids: dict[Layer, tuple[int, Size]] = {}

    def window(self, block: nn.Module, grid: Size) -> tuple[int | Size, int | Size] | None:
        """The sides of a block's windows and how far they are shifted; None if it has none.

        Args:
            block (nn.Module): The block.
            grid (tuple[int, int]): Rows and columns of its tokens.
        """
        raise NotImplementedError

    def grid(self, block: nn.Module, args: tuple) -> Size:
        """Rows and columns of the tokens that a block is called with."""
        tokens = args[0]
        return tuple({'BNC': lambda: args[1], 'BHWC': lambda: tokens.shape[1:3],
                      'BCHW': lambda: tokens.shape[2:]}[self.layout]())

    def attach(self, requests: Sequence[Request], *args: Any) -> None:
        requests = list(requests)
        super().attach(requests, *args)
        for layer in {layer for source, layer in requests if source in HEADS}:
            self._handles.append(
                self.blocks[layer].register_forward_pre_hook(self._note_grid(layer)))

    def _note_grid(self, layer: int) -> Callable[[nn.Module, tuple], None]:
        def hook(block: nn.Module, args: tuple) -> None:
            if self._recording:
                # A new dict: a pass before keeps its own.
                noted = len(self.block_input(args)), self.grid(block, args)
                self._grids = {**self._grids, layer: noted}
        return hook

    def token_mask(self, source: str, layer: Layer) -> Tensor | None:
        mask = super().token_mask(source, layer)
        images, grid = self._grids[layer] if source in HEADS else (0, ())
        window = self.window(self.blocks[layer], grid) if grid else None
        if window is None:
            return mask
        size, shift = map(to_2tuple, window)
        if mask is None:
            if not any(side % step for side, step in zip(grid, size)):
                return None
            mask = torch.ones(images, math.prod(grid), dtype=torch.bool)
        self._check_count(mask, math.prod(grid), layer)
        return partition(mask.unflatten(1, grid), size, shift, self.pads_first)


def partition(mask: Tensor, size: Size, shift: Size, pads_first: bool = True) -> Tensor:
    """Of the tokens of whole images, those of each window, with False where windows are padded.

    Args:
        mask (Tensor): ``(B, rows, columns)`` of bool.
        size (tuple[int, int]): Sides ``h`` and ``w`` of the windows.
        shift (tuple[int, int]): How far they are shifted.
        pads_first (bool): Whether tokens are padded before they are shifted. Defaults to True.

    Returns:
        Tensor: ``(b, h * w)``.
    """
    def roll(mask: Tensor) -> Tensor:
        return mask.roll((-shift[0], -shift[1]), (1, 2))

    rows, columns = mask.shape[1:]
    padding = (0, -columns % size[1], 0, -rows % size[0])
    padded = roll(F.pad(mask, padding)) if pads_first else F.pad(roll(mask), padding)
    return padded.unfold(1, size[0], size[0]).unfold(2, size[1], size[1]).flatten(3).flatten(0, 2)
