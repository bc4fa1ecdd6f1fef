"""Mixup and CutMix that know what every patch shows of which image."""
from dataclasses import dataclass

import numpy as np
import torch
from mmpretrain.models.utils.batch_augments import CutMix, Mixup
from torch import Tensor

from ..losses.base import check_choice
from ..registry import BATCH_AUGMENTS

Box = tuple[int, int, int, int]
PARTNERS = ('random', 'flip')


@dataclass(frozen=True)
class PatchMix:
    """How a batch of images was mixed.

    Attributes:
        partner (Tensor): ``(B,)``; the image that each was mixed with.
        lam (float): Share of an image that is its own, in [0, 1].
        box (tuple[int, int, int, int] | None): Rows ``y1:y2`` and columns ``x1:x2``, in pixels,
            that come from the partner; None where every pixel is mixed alike.
    """

    partner: Tensor
    lam: float
    box: Box | None = None

    def shares(self, image_size: tuple[int, int], patch_size: tuple[int, int]) -> Tensor:
        """Share of every patch that is the image's own; see :func:`patch_shares`."""
        if self.box is None:
            grid = image_size[0] // patch_size[0], image_size[1] // patch_size[1]
            return torch.full((grid[0] * grid[1], ), self.lam)
        return patch_shares(self.box, image_size, patch_size)


def patch_shares(box: Box, image_size: tuple[int, int], patch_size: tuple[int, int],
                 dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Share of every patch that lies outside a box.

    .. math:: \lambda_{ij} = 1 - \frac{o^y_i\, o^x_j}{p_y p_x}

    where :math:`o^y_i` is the overlap of the rows of patch :math:`i` with those of the box, and
    :math:`o^x_j` that of the columns.

    Args:
        box (tuple): ``(y1, y2, x1, x2)`` in pixels, ends excluded.
        image_size (tuple): ``(H, W)`` in pixels.
        patch_size (tuple): ``(p_y, p_x)`` in pixels.
        dtype (torch.dtype): Of the result. Defaults to float32.

    Returns:
        Tensor: ``(N,)`` in [0, 1], patches row by row. 1 is a patch without anything of the box.
    """

    def overlap(low: int, high: int, side: int, step: int) -> Tensor:
        edges = torch.arange(0, side // step * step + 1, step)
        return (edges[1:].clamp_max(high) - edges[:-1].clamp_min(low)).clamp_min(0).to(dtype)

    rows = overlap(box[0], box[1], image_size[0], patch_size[0])
    columns = overlap(box[2], box[3], image_size[1], patch_size[1])
    return (1 - torch.outer(rows, columns) / (patch_size[0] * patch_size[1])).flatten()


def draw_partner(batch_size: int, partner: str) -> Tensor:
    """Draw the image each of the batch is mixed with; a lone or middle image may meet itself."""
    if partner == 'flip':
        return torch.arange(batch_size - 1, -1, -1)
    return torch.randperm(batch_size)


@BATCH_AUGMENTS.register_module()
class PatchMixup(Mixup):
    r"""MMPretrain's Mixup, which also says how it mixed.

    .. math:: x \leftarrow \lambda x + (1 - \lambda) x_\pi, \qquad
        \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Draws the same random numbers as MMPretrain's.

    Args:
        alpha (float): Parameter of the Beta distribution.
        partner (str): ``'random'``, a random permutation as in MMPretrain, or ``'flip'``, the
            reversed batch as in the authors' code. Batches of any size work. Defaults to
            ``'random'``.

    Raises:
        ValueError: If ``partner`` is unknown.
    """

    def __init__(self, alpha: float, partner: str = 'random') -> None:
        super().__init__(alpha=alpha)
        self.partner = check_choice('partner', partner, PARTNERS)

    def __call__(self, batch_inputs: Tensor, batch_score: Tensor | None = None
                 ) -> tuple[Tensor, PatchMix]:
        """Mix a batch.

        Args:
            batch_inputs (Tensor): Images ``(B, C, H, W)``.
            batch_score (Tensor, optional): Ignored; labels are mixed in the loss.

        Returns:
            tuple[Tensor, PatchMix]: The mixed images, and how they were mixed.
        """
        lam = float(np.random.beta(self.alpha, self.alpha))
        index = draw_partner(batch_inputs.size(0), self.partner)
        return lam * batch_inputs + (1 - lam) * batch_inputs[index], PatchMix(index, lam)


@BATCH_AUGMENTS.register_module()
class PatchCutMix(CutMix):
    r"""MMPretrain's CutMix, which also says which box it pasted.

    Draws the same random numbers as MMPretrain's, with the share corrected for a box that was
    clipped at the border.

    Args:
        alpha (float): Parameter of the Beta distribution.
        partner (str): As in :class:`PatchMixup`. Defaults to ``'random'``.
        **kwargs: ``cutmix_minmax`` of MMPretrain's CutMix.

    Raises:
        ValueError: If ``partner`` is unknown.
    """

    def __init__(self, alpha: float, partner: str = 'random', **kwargs) -> None:
        super().__init__(alpha=alpha, **kwargs)
        self.partner = check_choice('partner', partner, PARTNERS)

    def __call__(self, batch_inputs: Tensor, batch_score: Tensor | None = None
                 ) -> tuple[Tensor, PatchMix]:
        """Mix a batch; see :meth:`PatchMixup.__call__`. The images are changed in place."""
        lam = float(np.random.beta(self.alpha, self.alpha))
        image_size = tuple(batch_inputs.shape[-2:])
        index = draw_partner(batch_inputs.size(0), self.partner)
        box, lam = self.cutmix_bbox_and_lam(image_size, lam)
        y1, y2, x1, x2 = box = tuple(int(edge) for edge in box)
        batch_inputs[:, :, y1:y2, x1:x2] = batch_inputs[index, :, y1:y2, x1:x2]
        return batch_inputs, PatchMix(index, float(lam), box)
