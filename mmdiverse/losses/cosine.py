"""Cosine similarity between the vectors of one layer, and between two layers."""
import torch
from torch import Tensor

from ..records import Record, check_records
from ..registry import LOSSES
from .base import DiversityLoss, check_choice, off_diagonal

FORMS = ('signed', 'absolute', 'squared')


def _sum(cosines: Tensor, form: str, dim: int | tuple[int, int]) -> Tensor:
    # No norms: a CPU adds up so many entries one after the other, and digits get lost.
    if form == 'absolute':
        cosines = cosines.abs()
    elif form == 'squared':
        cosines = cosines.square()
    return cosines.sum(dim)


def mean_cosine(record: Record, form: str = 'squared', diagonal: bool = False) -> Tensor:
    r"""Mean cosine similarity over the pairs of vectors of a record.

    .. math:: \frac{1}{|P|} \sum_{(i, j) \in P} f(\hat x_i \cdot \hat x_j)

    where :math:`f` is the identity (``signed``), the absolute value or the square, and :math:`P`
    is all ordered pairs, without :math:`i = j` unless ``diagonal``. The signed form costs
    :math:`O(MD)`, through :math:`\sum_{ij} \hat x_i \cdot \hat x_j = \lVert \sum_i \hat x_i
    \rVert^2`; the absolute :math:`O(M^2 D)`; the squared :math:`O(MD \min(M, D))`, through
    :math:`\lVert \hat X \hat X^\top \rVert_F = \lVert \hat X^\top \hat X \rVert_F`.

    Args:
        record (Record): ``(B, M, D)``.
        form (str): ``'signed'``, ``'absolute'`` or ``'squared'``.
        diagonal (bool): Whether the pairs of a vector with itself count.

    Returns:
        Tensor: ``(B,)``. Signed, in ``[-1 / (M - 1), 1]``, least where the directions cancel;
        otherwise in ``[0, 1]``, and squared at least ``(M - D) / (D (M - 1))`` where the vectors
        outnumber the dimensions, as of a tight frame. With the diagonal, signed in ``[0, 1]``, and
        squared at least ``1 / min(M, D)``. Lower is more diverse.
    """
    check_records('mean_cosine', [record])
    num, dim = record.shape[1:]
    if record.prefers_gram or form == 'absolute' or (form == 'squared' and num <= dim):
        def of_gram(cosines: Tensor) -> Tensor:
            if diagonal:
                return _sum(cosines, form, (-2, -1)) / num**2
            # Not taken off afterwards: next to the ones of the diagonal, digits get lost.
            return _sum(off_diagonal(cosines), form, -1) / (num * (num - 1))
        return record.map_gram(of_gram)
    if form == 'signed':
        # Of directions that cancel little is left below the diagonal.
        total = num**2 * record.mean_direction().double().square().sum(-1)
    else:
        total = record.map_gram(lambda gram: _sum(gram, form, (-2, -1)), smaller=True)
    if diagonal:
        return (total / num**2).to(record.dtype)
    # A zero vector has a zero, not a unit, direction, so the diagonal does not add up to M.
    own = (record.inverse_norms() > 0).sum((-2, -1))
    return ((total - own) / (num * (num - 1))).to(record.dtype)


def mean_cross_cosine(first: Record, second: Record, form: str = 'squared') -> Tensor:
    r"""Mean cosine similarity over all pairs of one vector from each of two records.

    .. math:: \frac{1}{M^2} \sum_{i, j} f(\hat a_i \cdot \hat b_j)

    The signed form is :math:`\mu_a \cdot \mu_b`, the product of the mean directions, at
    :math:`O(MD)`; the absolute costs :math:`O(M^2 D)`; the squared :math:`O(MD \min(M, 2D))`,
    through :math:`\lVert \hat A \hat B^\top \rVert_F^2 = \langle \hat A^\top \hat A,
    \hat B^\top \hat B \rangle`.

    Args:
        first (Record): ``(B, M, D)``.
        second (Record): ``(B, M, D)``.
        form (str): ``'signed'``, ``'absolute'`` or ``'squared'``.

    Returns:
        Tensor: ``(B,)``; in ``[-1, 1]`` for signed, in ``[0, 1]`` otherwise. Lower is more
        diverse.
    """
    check_records('mean_cross_cosine', [first, second])
    num, dim = first.shape[1:]
    if first.prefers_gram or form == 'absolute' or (form == 'squared' and num <= 2 * dim):
        return first.map_cross_gram(
            second, lambda cosines: _sum(cosines, form, (-2, -1)) / num**2)
    if form == 'signed':
        return (first.mean_direction() * second.mean_direction()).sum(-1)
    a, b = (record.unit_vectors() for record in (first, second))
    return torch.mul(a.mT @ a, b.mT @ b).sum((-2, -1)) / num**2


@LOSSES.register_module()
class CosineLoss(DiversityLoss):
    """Mean cosine similarity between the vectors of one layer. See :func:`mean_cosine`.

    The default, squared and without the diagonal, is smooth and asks for orthogonal vectors. The
    authors' form is ``form='signed', diagonal=True``: the squared norm of the mean direction. It
    is least where the directions *cancel*, which removes their common part but leaves, say, two
    opposite clusters alone. ``form='absolute', diagonal=False`` is the form of Gong et al.
    (arXiv 2104.12753).

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), within-layer cosine of patches and heads.

    Args:
        form (str): ``'signed'``, ``'absolute'`` or ``'squared'``. Defaults to ``'squared'``.
        diagonal (bool): Whether pairs of a vector with itself, which add a constant, count.
            Defaults to False.

    Raises:
        ValueError: If ``form`` is unknown; at the first step, if there are fewer than two vectors
            and no diagonal.
    """

    formula = 'mean of (u_i · u_j)² over i ≠ j'
    cost = 'M D min(M, D); signed M D'

    def __init__(self, form: str = 'squared', diagonal: bool = False) -> None:
        self.form = check_choice('form', form, FORMS)
        self.diagonal = diagonal
        self.min_vectors = 1 if diagonal else 2

    def forward(self, record: Record) -> Tensor:
        return mean_cosine(record, self.form, self.diagonal)


@LOSSES.register_module()
class CrossCosineLoss(DiversityLoss):
    """Mean cosine similarity between the vectors of two layers. See :func:`mean_cross_cosine`.

    The default is squared. The authors' forms are ``'signed'`` and ``'absolute'``.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), cross-layer cosine.

    Args:
        form (str): ``'signed'``, ``'absolute'`` or ``'squared'``. Defaults to ``'squared'``.

    Raises:
        ValueError: If ``form`` is unknown; at the first step, if the layers' shapes differ.
    """

    formula = 'mean of (u_i · v_j)² over all i, j of two layers'
    cost = 'M D min(M, 2 D); signed M D'
    num_records = 2
    min_vectors = 1

    def __init__(self, form: str = 'squared') -> None:
        self.form = check_choice('form', form, FORMS)

    def forward(self, first: Record, second: Record) -> Tensor:
        return mean_cross_cosine(first, second, self.form)
