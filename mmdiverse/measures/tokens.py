"""How alike the patch tokens of a layer are."""
import torch
from torch import Tensor

from ..losses import relative_residual
from ..records import EPS, Record, check_records

#: Ridge penalty of :func:`ridge_error`, in mean squared norms of the tokens.
RIDGE = 1e-2


def rank_collapse_residual(record: Record) -> Tensor:
    r"""What is left of the tokens without their mean.

    .. math:: \frac{\lVert X - \mathbb 1 \bar x^\top \rVert_F}{\lVert X \rVert_F}

    One minus :func:`~mmdiverse.losses.rank_collapse`.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in [0, 1]: 0 where all tokens are equal. Higher is more diverse.

    Source: Dong et al., ICML 2021 (arXiv 2103.03404), in the Frobenius norm.
    """
    check_records('rank_collapse_residual', [record])
    return relative_residual(record)


def effective_rank(record: Record) -> Tensor:
    r"""Exponential of the entropy of the normalised singular values.

    .. math:: \exp\Bigl(-\sum_k p_k \log p_k\Bigr), \qquad p_k = \sigma_k / \sum_l \sigma_l

    The mean is not taken away before. Found in float64.

    Args:
        record (Record): ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in ``[1, min(M, D)]``; 0 where all vectors are zero. Higher is more
        diverse.

    Source: Roy and Vetterli, EUSIPCO 2007.
    """
    check_records('effective_rank', [record])
    singular = record.spectrum[0].sqrt()
    total = singular.sum(-1, keepdim=True)
    shares = singular / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.special.entr(shares).sum(-1).exp() * (total[:, 0] > 0)


def ridge_error(record: Record, ridge: float = RIDGE) -> Tensor:
    r"""How badly a token is reconstructed from all others by ridge regression.

    .. math:: \frac1M \sum_i \frac{\lVert x_i - X_{-i}^\top w_i \rVert^2}{\lVert x_i \rVert^2},
        \qquad w_i = \arg\min_w \lVert x_i - X_{-i}^\top w \rVert^2 + \lambda \lVert w \rVert^2,
        \qquad \lambda = \rho\, \frac1M \sum_j \lVert x_j \rVert^2

    Without the penalty it is 0 as soon as ``M - 1 >= D``. All ``M`` regressions follow from
    :math:`A = (X X^\top + \lambda I)^{-1}`, of which only the diagonal and that of its square
    are needed: the error of token i is :math:`1 / A_{ii} - \lambda (A^2)_{ii} / A_{ii}^2`.

    Args:
        record (Record): ``(B, M, D)``.
        ridge (float): ``rho``. Defaults to ``RIDGE``.

    Returns:
        Tensor: ``(B,)``, in [0, 1]: 0 where every token is a combination of others, 1 where all
        are orthogonal. Higher is more diverse. Tokens that are zero count as 0.

    Source: ordinary ridge regression, with the identities of leave-one-out prediction.
    """
    check_records('ridge_error', [record])
    x = record.vectors().double()
    squares = x.square().sum(-1)
    penalty = ridge * squares.mean(-1, keepdim=True)
    penalty = torch.where(penalty > EPS**2, penalty, 1)  # of zeros, any will do
    scale, vectors = record.spectrum
    if x.size(2) < x.size(1):
        # Squared entries of the left singular vectors; those of singular value 0 drop out below.
        energies = (x @ vectors).square() / scale.clamp_min(torch.finfo(x.dtype).tiny)[:, None]
        energies = energies * (scale > EPS**2 * scale[:, -1:])[:, None]
    else:
        energies = vectors.square()
    inverse = (scale + penalty).reciprocal()
    # Beyond the span of the vectors the inverse is 1 / penalty.
    rest = (1 - energies.sum(-1)).clamp_min(0)
    first = (energies * inverse[:, None]).sum(-1) + rest / penalty
    second = (energies * inverse.square()[:, None]).sum(-1) + rest / penalty.square()
    errors = 1 / first - penalty * second / first.square()
    return (errors / squares.clamp_min(EPS**2) * (squares > EPS**2)).mean(-1)
