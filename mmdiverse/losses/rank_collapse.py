"""Rank collapse: how little of the vectors is left without their mean."""
import torch
from torch import Tensor

from ..precision import length
from ..records import EPS, Record, check_records
from ..registry import LOSSES
from .base import DiversityLoss


def relative_residual(record: Record) -> Tensor:
    r"""What is left of the vectors after their mean is taken away.

    .. math:: \frac{\lVert X - \mathbb 1 \bar x^\top \rVert_F}{\lVert X \rVert_F}, \qquad
        \bar x = \frac1M \sum_i x_i

    Costs :math:`O(MD)`.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in [0, 1]: 0 where all vectors are equal, 1 where their mean is zero.
        Higher is more diverse.
    """
    check_records('relative_residual', [record])
    if record.prefers_gram:
        # Of nearly equal vectors, energies in float32 would leave rounding.
        return record.double().map_gram(_residual_of_gram, normalize=False).to(record.dtype)
    return _residual(record, length(length(record.vectors())))


def _residual(record: Record, total: Tensor) -> Tensor:
    return length(length(record.vectors() - record.mean)) / total.clamp_min(EPS)


def _residual_of_gram(gram: Tensor) -> Tensor:
    energy = torch.diagonal(gram, dim1=-2, dim2=-1).sum(-1)
    residual = energy - gram.sum((-2, -1)) / gram.size(-1)
    # Of equal vectors rounding may leave less than nothing, and the root has no slope at zero.
    smallest = torch.finfo(gram.dtype).tiny
    return (residual / energy.clamp_min(EPS**2)).clamp_min(smallest).sqrt()


def rank_collapse(record: Record) -> Tensor:
    r"""One minus the relative residual after the mean vector is taken away.

    .. math:: 1 - \frac{\lVert X - \mathbb 1 \bar x^\top \rVert_F}{\lVert X \rVert_F}, \qquad
        \bar x = \frac1M \sum_i x_i

    Costs :math:`O(MD)`.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in [0, 1]: 1 where all vectors are equal (rank collapse), 0 where their
        mean is zero. Lower is more diverse.
    """
    check_records('rank_collapse', [record])
    if record.prefers_gram:
        return record.double().map_gram(lambda gram: 1 - _residual_of_gram(gram), normalize=False
                                        ).to(record.dtype)
    total = length(length(record.vectors()))
    residual = _residual(record, total)
    # 1 - r is (1 - r^2) / (1 + r), which keeps its digits where r is nearly 1: 1 - r^2 is the
    # share of the mean, M times.
    mean = length(record.mean[:, 0]) / total.clamp_min(EPS)
    return torch.where(total > EPS, record.shape[1] * mean.square() / (1 + residual), 1 - residual)


@LOSSES.register_module()
class RankCollapseLoss(DiversityLoss):
    """One minus the relative residual of Dong et al. See :func:`rank_collapse`.

    It is least where the vectors cancel, so like the signed cosine it removes what all have in
    common and no more; but long vectors count more than short ones. Vectors that are exactly
    equal receive no gradient.

    Source: Dong et al., ICML 2021 (arXiv 2103.03404), the residual as a measure, in the Frobenius
    norm.

    Raises:
        ValueError: At the first step, if there are fewer than two vectors.
    """

    formula = '1 − ‖X − 1 mean(X)ᵀ‖ / ‖X‖'
    cost = 'M D'

    def forward(self, record: Record) -> Tensor:
        return rank_collapse(record)
