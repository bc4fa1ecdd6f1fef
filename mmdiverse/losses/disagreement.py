"""Disagreement between heads: their mean inner product."""
from torch import Tensor

from ..records import Record, check_records
from ..registry import LOSSES
from .base import DiversityLoss
from .cosine import mean_cosine


def mean_inner_product(record: Record) -> Tensor:
    r"""Mean inner product over all pairs of vectors, which is the squared norm of their mean.

    .. math:: \frac{1}{M^2} \sum_{i, j} x_i \cdot x_j = \Big\lVert \frac1M \sum_i x_i \Big\rVert^2

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, at least 0. Lower is more diverse. Costs :math:`O(MD)`.
    """
    check_records('mean_inner_product', [record])
    if record.prefers_gram:
        return record.map_gram(lambda gram: gram.mean((-2, -1)), normalize=False)
    return record.vectors().mean(1).square().sum(-1)


@LOSSES.register_module()
class DisagreementLoss(DiversityLoss):
    r"""Mean inner product between the heads, pairs of a head with itself included.

    .. math:: \frac{1}{H^2} \sum_{i, j} \hat x_i \cdot \hat x_j

    Li et al. maximise its negative, in three forms: the subspaces, ``heads='values'``, and the
    outputs, ``heads='outputs'``, by directions, which is the default and equals the signed
    :class:`~mmdiverse.losses.CosineLoss` with its diagonal, in [0, 1]; and the attended positions,
    ``heads='maps'`` (the default of a term) with ``normalize=False``, see
    :func:`mean_inner_product`, in ``[1, N]`` for N tokens. Lower is more diverse. That form
    misleads: a map's product with itself counts, and is least where it is uniform, so uniform
    maps, all alike, score better than sharp ones that differ.

    Source: Li et al., EMNLP 2018 (arXiv 1810.10183).

    Args:
        normalize (bool): Use the directions of the vectors instead of the vectors. Defaults to
            True.

    Raises:
        ValueError: At the first step, if there are fewer than two heads.
    """

    formula = 'mean of u_i · u_j over all i, j'
    cost = 'M D'
    levels = ('attention', )

    def __init__(self, normalize: bool = True) -> None:
        self.normalize = normalize

    def forward(self, record: Record) -> Tensor:
        if self.normalize:
            return mean_cosine(record, 'signed', diagonal=True)
        return mean_inner_product(record)
