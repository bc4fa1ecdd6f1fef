"""How redundant a matrix of weights is. Its rows are the weights of output neurons."""
import torch
from torch import Tensor

from ..losses import ConditionalOrthogonalityLoss, exact_extremes, mean_cosine
from ..losses.base import off_diagonal
from ..records import Record

_SPREAD = ConditionalOrthogonalityLoss(method='exact')


def pca_energy(record: Record) -> Tensor:
    r"""Share of the variance of the rows in their first principal components.

    .. math:: E_k = \sum_{i \le k} \sigma_i^2 \Big/ \sum_i \sigma_i^2

    with the singular values of the matrix less its mean row. Found in float64.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B, min(M, D))``, rising to 1; 0 where all rows are equal. Lower is more
        diverse; as long as no component stands out, it is a straight line.

    Source: principal component analysis of the rows.
    """
    x = record.vectors().double()
    # What the mean leaves of equal rows is rounding.
    smallest = 100 * torch.finfo(x.dtype).eps**2 * x.square().sum((-2, -1))[:, None]
    x = x - x.mean(1, keepdim=True)
    gram = x.mT @ x if x.size(2) < x.size(1) else x @ x.mT
    energy = torch.linalg.eigvalsh(gram).clamp_min(0).flip(-1).cumsum(-1)
    total = energy[:, -1:]
    return energy / total.clamp_min(torch.finfo(x.dtype).tiny) * (total > smallest)


def stable_rank(record: Record) -> Tensor:
    r"""Squared Frobenius over squared spectral norm.

    .. math:: \lVert W \rVert_F^2 / \sigma_1^2

    Found in float64.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in ``[1, min(M, D)]``; 0 for a zero matrix. Higher is more diverse.

    Source: Rudelson and Vershynin, Journal of the ACM 2007.
    """
    record = record.double()
    largest = record.map_gram(lambda gram: exact_extremes(gram)[:, 0], normalize=False,
                              smaller=True)
    squares = record.vectors().square().sum((-2, -1))
    return squares / largest.clamp_min(torch.finfo(squares.dtype).tiny)


def eigenvalue_spread(record: Record) -> Tensor:
    r"""Squared distance between the extreme eigenvalues, exactly.

    .. math:: (\lambda_{\max} - \lambda_{\min})^2 \quad \text{of} \quad W W^\top

    The value of :class:`~mmdiverse.losses.ConditionalOrthogonalityLoss` with its defaults.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in ``[0, inf)``; grows with the fourth power of the weights. NaN for a
        single row. Lower is more diverse.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), weight level.
    """
    return _SPREAD(record) if record.shape[1] > 1 else _undefined(record)


def neuron_cosine_mean(record: Record) -> Tensor:
    r"""Mean absolute cosine between different rows.

    .. math:: \frac{1}{M (M - 1)} \sum_{i \ne j} |\hat w_i \cdot \hat w_j|

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in [0, 1]; NaN for a single row. Lower is more diverse.

    Source: the absolute cosine of tokens, of rows.
    """
    return mean_cosine(record, 'absolute')


def neuron_cosine_max(record: Record) -> Tensor:
    r"""Largest absolute cosine of a row with another, mean over the rows.

    .. math:: \frac1M \sum_i \max_{j \ne i} |\hat w_i \cdot \hat w_j|

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in [0, 1]: 1 where every neuron has a twin; NaN for a single row. Lower
        is more diverse.

    Source: as for the mean.
    """
    num = record.shape[1]
    if num < 2:
        return _undefined(record)
    return record.map_gram(lambda gram: off_diagonal(gram).abs().unflatten(
        -1, (num, num - 1)).amax(-1).mean(-1))


def _undefined(record: Record) -> Tensor:
    """What a measure of pairs gives for a single row."""
    return record.vectors().new_full((record.shape[0], ), torch.nan)
