"""How redundant a matrix of weights is. Its rows are the weights of output neurons."""
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..losses import ConditionalOrthogonalityLoss, exact_extremes, mean_cosine
from ..losses.base import off_diagonal
from ..records import Record, check_records

_SPREAD = ConditionalOrthogonalityLoss(method='exact')
#: Points of the quadrature in :func:`noise_quarter_energy`.
_POINTS = 4096


def pca_energy(record: Record) -> Tensor:
    r"""Share of the variance of the rows in their first principal components.

    .. math:: E_k = \sum_{i \le k} \sigma_i^2 \Big/ \sum_i \sigma_i^2

    with the singular values of the matrix less its mean row. Found in float64.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B, min(M, D))``, rising to 1; 0 where all rows are equal. Lower is more
        diverse: a straight line where all components are equally strong, as those of orthogonal
        rows or columns are. Random rows lie above it, the more so the nearer the matrix is to a
        square; see :func:`noise_quarter_energy`.

    Source: principal component analysis of the rows.
    """
    check_records('pca_energy', [record])
    x = record.vectors().double()
    # What the mean leaves of equal rows is rounding.
    smallest = 100 * torch.finfo(x.dtype).eps**2 * x.square().sum((-2, -1))[:, None]
    x = x - x.mean(1, keepdim=True)
    gram = x.mT @ x if x.size(2) < x.size(1) else x @ x.mT
    energy = torch.linalg.eigvalsh(gram).clamp_min(0).flip(-1).cumsum(-1)
    total = energy[:, -1:]
    return energy / total.clamp_min(torch.finfo(x.dtype).tiny) * (total > smallest)


@cache
def noise_quarter_energy(num_rows: int, num_columns: int) -> float:
    r"""Share of the energy in the first quarter of the components of Gaussian noise.

    What :func:`pca_energy` is to be compared with after :math:`\lceil K / 4 \rceil` of its
    :math:`K = \min(M, D)` components. The squared singular values of noise follow the law of
    Marchenko and Pastur: with the ratio :math:`\gamma \le 1` of the shorter to the longer side,
    one row less because their mean is taken away, their density is

    .. math:: \rho(\lambda) \propto \frac{\sqrt{(\lambda_+ - \lambda)(\lambda - \lambda_-)}}
        {\lambda}, \qquad \lambda_\pm = (1 \pm \sqrt\gamma)^2

    Args:
        num_rows (int): ``M``, at least 1.
        num_columns (int): ``D``, at least 1.

    Returns:
        float: In [0, 1]; 0.62 for large square matrices, 0.43 where one side is four times the
        other, and down to 0.25 the longer one side. Within 0.003 of the mean over matrices of at
        least 64 x 64, within 0.01 from 8 x 8 on. 0 for a single row.

    Raises:
        ValueError: If there is no row or no column.

    Source: Marchenko and Pastur, Mathematics of the USSR-Sbornik 1967.
    """
    if min(num_rows, num_columns) < 1:
        raise ValueError('`num_rows` and `num_columns` must be at least 1, but got '
                         f'{num_rows} and {num_columns}')
    if num_rows == 1:
        return 0.
    components = math.ceil(min(num_rows, num_columns) / 4)
    short, long = sorted((num_rows - 1, num_columns))
    root = math.sqrt(short / long)
    # With lambda = 1 + root^2 + 2 root cos(t) the density in t has no edges: from the largest on,
    # in the middles of equal steps.
    angles = (np.arange(_POINTS) + 0.5) * (math.pi / _POINTS)
    eigenvalues = 1 + root**2 + 2 * root * np.cos(angles)
    density = np.sin(angles)**2 / eigenvalues
    components_so_far = density.cumsum() / density.sum()
    energy_so_far = (density * eigenvalues).cumsum() / (density * eigenvalues).sum()
    return float(np.interp(components / short, components_so_far, energy_so_far))


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
    check_records('stable_rank', [record])
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
        Tensor: ``(B,)``, in ``[0, inf)``; grows with the fourth power of the weights. With more
        rows than columns the smallest eigenvalue is 0. NaN for a single row. Lower is more
        diverse.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), weight level.
    """
    check_records('eigenvalue_spread', [record])
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
    check_records('neuron_cosine_mean', [record])
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
    check_records('neuron_cosine_max', [record])
    num = record.shape[1]
    if num < 2:
        return _undefined(record)
    return record.map_gram(lambda gram: off_diagonal(gram).abs().unflatten(
        -1, (num, num - 1)).amax(-1).mean(-1))


def _undefined(record: Record) -> Tensor:
    """What a measure of pairs gives for a single row."""
    return record.vectors().new_full((record.shape[0], ), torch.nan)
