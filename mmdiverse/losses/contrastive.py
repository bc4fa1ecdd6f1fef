"""Contrast between matching and other vectors of two layers."""
import torch.nn.functional as F
from torch import Tensor

from ..records import Record
from ..registry import LOSSES
from .base import DiversityLoss


def contrastive(first: Record, second: Record) -> Tensor:
    r"""How much a vector resembles the others of another layer rather than its own.

    .. math::
        d_i = \hat a_i \cdot \hat b_i, \qquad
        m_i = \frac{1}{M - 1} \sum_{j \ne i} \hat a_i \cdot \hat b_j, \qquad
        \frac1M \sum_i \log(1 + e^{m_i - d_i})

    There is no temperature, and the mean over the others is taken inside the exponential, so it
    is not InfoNCE. Costs :math:`O(MD)`.

    Args:
        first (Record): ``(B, M, D)``, ``M >= 2``.
        second (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, between ``log(1 + e^-2) = 0.127`` and ``log(1 + e^2) = 2.127``;
        ``log 2`` where a vector resembles its own image no more than the others'. Lower is more
        diverse.
    """
    a, b = first.unit_vectors(), second.unit_vectors()
    own = (a * b).sum(-1)
    total = (a @ b.sum(1).unsqueeze(-1)).squeeze(-1)
    others = (total - own) / (a.size(1) - 1)
    return F.softplus(others - own).mean(-1)


@LOSSES.register_module()
class ContrastiveLoss(DiversityLoss):
    """Keeps every vector of a layer near its own image in another layer, and away from the rest.

    See :func:`contrastive`. This is the authors' form; it has no options. Both layers receive a
    gradient.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), cross-layer contrastive loss.

    Raises:
        ValueError: At the first step, if the layers' shapes differ or ``M < 2``.
    """

    levels = ('patch', 'attention')
    num_records = 2
    min_vectors = 2

    def forward(self, first: Record, second: Record) -> Tensor:
        return contrastive(first, second)
