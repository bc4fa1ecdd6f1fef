"""Rank collapse: how little of the vectors is left without their mean."""
import torch
from torch import Tensor

from ..records import EPS, Record
from ..registry import LOSSES
from .base import DiversityLoss


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
    if record.prefers_gram:
        return record.map_gram(_collapse_of_gram, normalize=False)
    x = record.vectors()
    residual = torch.linalg.vector_norm(x - record.mean, dim=(-2, -1))
    return 1 - residual / torch.linalg.vector_norm(x, dim=(-2, -1)).clamp_min(EPS)


def _collapse_of_gram(gram: Tensor) -> Tensor:
    energy = torch.diagonal(gram, dim1=-2, dim2=-1).sum(-1)
    residual = energy - gram.sum((-2, -1)) / gram.size(-1)
    # Of equal vectors rounding may leave less than nothing, and the root has no slope at zero.
    smallest = torch.finfo(gram.dtype).tiny
    return 1 - (residual / energy.clamp_min(EPS**2)).clamp_min(smallest).sqrt()


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
