"""Contrast between matching and other vectors of two layers."""
import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import inner_products
from ..records import Record, check_records
from ..registry import LOSSES
from .base import DiversityLoss


def contrastive(first: Record, second: Record, normalize: bool = True) -> Tensor:
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
        normalize (bool): Inner products of directions or of the vectors as they are.

    Returns:
        Tensor: ``(B,)``, above 0; ``log 2`` where a vector resembles its own image no more than
        the others'. Of directions between ``log(1 + e^-2) = 0.127`` and ``log(1 + e^2) = 2.127``.
        Lower is more diverse.
    """
    check_records('contrastive', [first, second])

    def contrast(own: Tensor, total: Tensor) -> Tensor:
        others = (total - own) / (own.size(-1) - 1)
        return F.softplus(others - own).mean(-1)

    # Un-normalised, products of all vectors are added and taken away again: better without.
    if first.prefers_gram and (normalize or not first.stores_vectors):
        return first.map_cross_gram(second, lambda products: contrast(
            torch.diagonal(products, dim1=-2, dim2=-1), products.sum(-1)), normalize)
    a, b = first.vectors(), second.vectors()
    if not normalize:
        # The difference of both at once: what all vectors share is then not added and taken away.
        num = a.size(1)
        difference = (a * (second.mean - b)).sum(-1) * (num / (num - 1))
        difference = difference + 0 * a.sum(-1)  # of minus infinity the softplus is 0
        return F.softplus(difference).mean(-1)
    # Scales are left to where they meet less than the vectors.
    scale_a, scale_b = first.inverse_norms(), second.inverse_norms()
    own = (a * b).sum(-1, keepdim=True) * (scale_a * scale_b)
    total = inner_products(a, inner_products(scale_b.mT, b.mT)) * scale_a
    return contrast(own.squeeze(-1), total.squeeze(-1))


@LOSSES.register_module()
class ContrastiveLoss(DiversityLoss):
    """Keeps every vector of a layer near its own image in another layer, and away from the rest.

    See :func:`contrastive`. The default is the authors' form: of directions, and both layers
    receive a gradient. Gong et al. stop the gradient of the first layer (``stop_gradient=True``),
    so that the input is a fixed target, and take inner products of the vectors as they are
    (``normalize=False``), which also rewards length.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), cross-layer contrastive loss; Gong et al.,
    2021 (arXiv 2104.12753), patch-wise contrastive loss.

    Args:
        stop_gradient (bool): Whether the first layer receives no gradient. Defaults to False.
        normalize (bool): Use the directions of the vectors instead of the vectors. Defaults to
            True.

    Raises:
        ValueError: At the first step, if the layers' shapes differ or ``M < 2``.
    """

    formula = 'mean of log(1 + exp(mean over j ≠ i of u_i · v_j − u_i · v_i)) over i'
    cost = 'M D'
    levels = ('patch', 'attention')
    num_records = 2

    def __init__(self, stop_gradient: bool = False, normalize: bool = True) -> None:
        self.stop_gradient = stop_gradient
        self.normalize = normalize

    def forward(self, first: Record, second: Record) -> Tensor:
        return contrastive(first.detach() if self.stop_gradient else first, second,
                           self.normalize)
