"""Random transforms of whole batches, where the batch is: an own draw for every image, no loop."""
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..registry import TRANSFORMS

PADDING_MODES = ('constant', 'edge', 'reflect', 'symmetric')
#: Dimensions of a batch that each direction turns over.
FLIPPED = {'horizontal': (3, ), 'vertical': (2, ), 'diagonal': (2, 3)}


class BatchTransform(ABC):
    """A transform that :class:`~mmdiverse.datasets.InMemoryDataset` applies to whole batches.

    What is random is drawn for every image by itself, from torch's global generator of the device
    where the images are, so that :class:`~mmdiverse.hooks.EpochSeedHook` makes it repeatable.
    """

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Transform images ``(B, C, H, W)`` of dtype uint8."""


def pad(images: Tensor, padding: tuple[int, int, int, int], values: Sequence[int] = (0, ),
        mode: str = 'constant') -> Tensor:
    """Enlarge images at their borders, as ``mmcv.impad`` does.

    Args:
        images (Tensor): Shape ``(B, C, H, W)``.
        padding (tuple[int, int, int, int]): Pixels at left, top, right and bottom.
        values (Sequence[int]): Colour of constant padding: one value of all channels, or one of
            each. Defaults to black.
        mode (str): One of ``PADDING_MODES``. Defaults to ``'constant'``.

    Returns:
        Tensor: Shape ``(B, C, top + H + bottom, left + W + right)``.
    """
    left, top, right, bottom = padding
    batch, channels, height, width = images.shape
    if mode == 'constant':
        colour = torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        padded = colour.repeat(batch, channels // len(values), top + height + bottom,
                               left + width + right)
        padded[..., top:top + height, left:left + width] = images
        return padded
    for dim, sides in ((2, (top, bottom)), (3, (left, right))):
        sources = torch.from_numpy(np.pad(np.arange(images.size(dim)), sides, mode))
        images = images.index_select(dim, sources.to(images.device))
    return images


def crop(images: Tensor, tops: Tensor, lefts: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a window out of every image.

    Args:
        images (Tensor): Shape ``(B, C, H, W)``.
        tops (Tensor): First row of each window, shape ``(B,)``.
        lefts (Tensor): First column of each, shape ``(B,)``.
        size (tuple[int, int]): Height ``h`` and width ``w`` of all windows.

    Returns:
        Tensor: Shape ``(B, C, h, w)``.
    """
    windows = images.unfold(2, size[0], 1).unfold(3, size[1], 1)
    return windows[torch.arange(len(images), device=images.device), :, tops, lefts]


@TRANSFORMS.register_module()
class BatchRandomCrop(BatchTransform):
    """MMPretrain's RandomCrop for batches: a window of every image, all places equally likely.

    Differs in that the arguments mean what they say: MMPretrain's ``padding`` is constant whatever
    ``padding_mode`` is, and its ``pad_val`` of one number colours the first channel alone.

    Args:
        crop_size (int | Sequence[int]): Side of the window, or height and width.
        padding (int | Sequence[int], optional): Pixels added before: on all sides; at left and
            right, and at top and bottom; or at left, top, right and bottom. Defaults to none.
        pad_val (int | Sequence[int]): Their value in all channels, or in each, in the order in
            which images are loaded (BGR as a rule). Defaults to 0.
        padding_mode (str): ``'constant'``, ``'edge'``, ``'reflect'`` or ``'symmetric'``, as in
            ``numpy.pad``. Defaults to ``'constant'``.

    Raises:
        ValueError: If an argument is out of range; with the first batch, if ``crop_size`` is larger
            than images and padding, or ``pad_val`` is not of as many channels.
    """

    def __init__(self, crop_size: int | Sequence[int], padding: int | Sequence[int] | None = None,
                 pad_val: int | Sequence[int] = 0, padding_mode: str = 'constant') -> None:
        if padding_mode not in PADDING_MODES:
            raise ValueError(f'`padding_mode` must be one of {list(PADDING_MODES)}, but got '
                             f'{padding_mode!r}')
        sides = _whole_numbers('crop_size', crop_size, (1, 2), least=1)
        self.crop_size = (sides[0], sides[-1])
        self.padding = (_whole_numbers('padding', padding or 0, (1, 2, 4)) * 4)[:4]
        self.pad_val = _whole_numbers('pad_val', pad_val, (1, 3), most=255)
        self.padding_mode = padding_mode

    def __call__(self, images: Tensor) -> Tensor:
        """Crop images ``(B, C, H, W)`` to ``(B, C, *crop_size)``."""
        if len(self.pad_val) not in (1, images.size(1)):
            raise ValueError(f'BatchRandomCrop: `pad_val` {self.pad_val} must be one number for '
                             f'images of {images.size(1)} channels')
        if any(self.padding):
            images = pad(images, self.padding, self.pad_val, self.padding_mode)
        room = [side - cut for side, cut in zip(images.shape[2:], self.crop_size)]
        if min(room) < 0:
            raise ValueError(f'BatchRandomCrop: `crop_size` {self.crop_size} must fit into images '
                             f'and `padding`, but these are {tuple(images.shape[2:])} pixels')
        tops, lefts = (torch.randint(most + 1, (len(images), ), device=images.device)
                       for most in room)
        return crop(images, tops, lefts, self.crop_size)


@TRANSFORMS.register_module()
class BatchRandomFlip(BatchTransform):
    """MMCV's RandomFlip for batches: each image by itself, with the same probability.

    Args:
        prob (float): Probability in [0, 1].
        direction (str): ``'horizontal'``, ``'vertical'`` or ``'diagonal'``, which is both. Defaults
            to ``'horizontal'``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, prob: float, direction: str = 'horizontal') -> None:
        if not isinstance(prob, (int, float)) or not 0 <= prob <= 1:
            raise ValueError(f'`prob` must be a number in [0, 1], but got {prob!r}')
        if direction not in FLIPPED:
            raise ValueError(f'`direction` must be one of {list(FLIPPED)}, but got {direction!r}')
        self.prob = prob
        self.direction = direction

    def __call__(self, images: Tensor) -> Tensor:
        """Flip some of the images ``(B, C, H, W)``."""
        chosen = torch.rand(len(images), device=images.device) < self.prob
        return torch.where(chosen[:, None, None, None], images.flip(FLIPPED[self.direction]),
                           images)


def _whole_numbers(key: str, value: int | Sequence[int], lengths: tuple[int, ...], least: int = 0,
                   most: float = float('inf')) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value, )
    if len(numbers) not in lengths or not all(
            isinstance(number, int) and least <= number <= most for number in numbers):
        raise ValueError(f'`{key}` must be a whole number from {least} to {most}, or '
                         f'{" or ".join(map(str, lengths[1:]))} of them, but got {value!r}')
    return numbers
