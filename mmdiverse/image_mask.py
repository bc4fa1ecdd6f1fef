"""Which tokens of a batch stand for its images: not those of padding, nor of ignored pixels."""
from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]

#: What the data preprocessors of MMDetection and of MMSegmentation note of an image that they pad.
PADDED = ('batch_input_shape', 'padding_size')


class ImageMask:
    r"""The part of every image in a batch that is neither padding nor ignored.

    A token at row ``i`` and column ``j``, of patches with sides ``s``, counts if its patch lies
    within the image and some pixel of it has a label that is not ignored:

    .. math:: (i + 1)\, s \le h \ \land\ (j + 1)\, s \le w \ \land\ \exists\, p \in
        \text{patch}_{ij} : y_p \ne y_\text{ignored}

    Args:
        sizes (Sequence[tuple[int, int]]): Height and width of each image in pixels, without the
            padding at its bottom and right.
        batch_size (tuple[int, int]): Height and width of all, with their padding.
        labelled (Tensor, optional): ``(B, H, W)`` of bool, False where a pixel is ignored.
    """

    def __init__(self, sizes: Sequence[Size], batch_size: Size, labelled: Tensor | None = None
                 ) -> None:
        self.sizes, self.batch_size, self._labelled = list(sizes), batch_size, labelled
        self._tokens: dict[tuple[Size, Size, bool], Tensor] = {}

    def grid(self, stride: Size) -> Size:
        """Rows and columns of the patches with these sides."""
        return tuple(ceil(size / step) for size, step in zip(self.batch_size, stride))

    def tokens(self, grid: Size, stride: Size, ignore: bool = True) -> Tensor:
        """Which tokens count.

        Args:
            grid (tuple[int, int]): Rows and columns of the tokens.
            stride (tuple[int, int]): Height and width of a patch in pixels.
            ignore (bool): Whether to leave out those of ignored pixels too. Defaults to True.

        Returns:
            Tensor: ``(B, rows * columns)`` of bool, on the CPU.
        """
        key = (grid, stride, ignore)
        if key not in self._tokens:
            mask = self._whole(grid, stride)
            if ignore and self._labelled is not None:
                mask = mask & self._any_labelled(grid, stride)
            self._tokens[key] = mask.flatten(1)
        return self._tokens[key]

    def _whole(self, grid: Size, stride: Size) -> Tensor:
        sizes = torch.tensor(self.sizes)
        rows, columns = ((torch.arange(count) + 1) * step <= sizes[:, axis, None]
                         for axis, (count, step) in enumerate(zip(grid, stride)))
        return rows[:, :, None] & columns[:, None]

    def _any_labelled(self, grid: Size, stride: Size) -> Tensor:
        (rows, columns), (height, width) = grid, self._labelled.shape[1:]
        padded = F.pad(self._labelled.float(), (0, columns * stride[1] - width,
                                                0, rows * stride[0] - height))
        return F.max_pool2d(padded, stride).bool().cpu()


def find_image_mask(inputs: Any, data_samples: Any, ignore_index: int | None = None
                    ) -> ImageMask | None:
    """Read from a batch of MMDetection or MMSegmentation what its data preprocessor padded.

    Args:
        inputs (Tensor): ``(B, C, H, W)``, as the model gets it.
        data_samples (Sequence): Of each image, with ``img_shape`` and what tells that it was
            padded. Those of MMPretrain say nothing of it.
        ignore_index (int, optional): The label of ignored pixels in ``gt_sem_seg``.

    Returns:
        ImageMask | None: None if every pixel counts.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or \
            not isinstance(data_samples, Sequence) or len(data_samples) != len(inputs):
        return None
    batch_size = tuple(inputs.shape[2:])
    sizes = [tuple(sample.img_shape[:2]) if any(key in sample for key in PADDED) else batch_size
             for sample in data_samples]
    labelled = None
    if ignore_index is not None and all('gt_sem_seg' in sample for sample in data_samples):
        labelled = torch.cat([sample.gt_sem_seg.data for sample in data_samples]) != ignore_index
    if labelled is None and all(size == batch_size for size in sizes):
        return None
    return ImageMask(sizes, batch_size, labelled)


def group_tokens(mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Put items with equally many tokens together; those with fewer than two say nothing.

    Args:
        mask (Tensor): ``(B, N)`` of bool.

    Returns:
        list[tuple[Tensor, Tensor]]: Of each group the items, ``(b,)``, and of each its tokens,
        ``(b, m)``.
    """
    counts = mask.sum(1)
    groups = []
    for count in counts[counts > 1].unique().tolist():
        items = (counts == count).nonzero().squeeze(1)
        groups.append((items, mask[items].nonzero()[:, 1].view(len(items), count)))
    return groups


def group_shapes(*views: Sequence[Tensor]) -> list[list[int]]:
    """Put images of one shape together, which no data preprocessor then pads to another's.

    Args:
        views (Sequence[Tensor]): The images of a batch, ``(C, H, W)`` each; of several views of
            them, each.

    Returns:
        list[list[int]]: The places of each group in the batch. The last group ends with the last
        place.
    """
    groups: dict[Any, list[int]] = {}
    for place, shapes in enumerate(zip(*([image.shape for image in view] for view in views))):
        groups.setdefault(shapes, []).append(place)
    return sorted(groups.values(), key=lambda places: places[-1])
