"""Uniformity on the hypersphere: energy, separation and Gram determinant of directions.

All are of distances, ``2 - 2 cos``, which float32 leaves nothing of but rounding where directions
are nearly equal; so they are found in float64.
"""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..records import Record
from ..registry import LOSSES
from .base import DiversityLoss, check_not_negative, check_positive, off_diagonal


def squared_distances(cosines: Tensor) -> Tensor:
    r"""Squared distances between directions.

    .. math:: \lVert \hat x_i - \hat x_j \rVert^2 = 2 - 2\, \hat x_i \cdot \hat x_j

    Args:
        cosines (Tensor): Of any shape.

    Returns:
        Tensor: Of the same shape, in [0, 4].
    """
    return (2 - 2 * cosines).clamp_min(0)


def authors_squared_distances(gram: Tensor) -> Tensor:
    r"""Squared distances as Chen et al. compute them.

    They normalise twice, each time by :math:`\sqrt{\lVert x \rVert^2 + 10^{-8}}`, so that a
    direction is a little shorter than 1. A zero vector gets no gradient here, where theirs is near
    :math:`10^8`.

    Args:
        gram (Tensor): Inner products of the vectors as they are, ``(B, M, M)``.

    Returns:
        Tensor: ``(B, M, M)``.
    """
    square = torch.diagonal(gram, dim1=-2, dim2=-1)
    scale = (square + 1e-8 * (square + 1e-8)).rsqrt() * (square > 0)
    return 2 - 2 * gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def _map_in_float64(record: Record, function: Callable[[Tensor], Tensor], normalize: bool = True
                    ) -> Tensor:
    """A function of inner products that are found in float64, in the dtype of the record."""
    return record.double().map_gram(function, normalize=normalize).to(record.dtype)


def hyperspherical_energy(cosines: Tensor, power: float = 1., half_space: bool = False,
                          eps: float = 1e-4) -> Tensor:
    r"""Mean Riesz energy of pairs of directions that repel each other.

    .. math:: \frac{1}{M (M - 1)} \sum_{i \ne j} e(\lVert \hat x_i - \hat x_j \rVert), \qquad
        e(d) = (d^2 + \epsilon)^{-s / 2}, \quad \text{or } -\tfrac12 \log(d^2 + \epsilon)
        \text{ for } s = 0

    Args:
        cosines (Tensor): ``(B, M, M)``.
        power (float): ``s``.
        half_space (bool): Whether the opposites :math:`-\hat x_j` repel as well. The mean is then
            over both.
        eps (float): Added to squared distances, so that equal directions have a finite energy.

    Returns:
        Tensor: ``(B,)``, at most :math:`\epsilon^{-s / 2}`, for ``s = 0``
        :math:`-\frac12 \log \epsilon`, which equal directions have. Lower is more diverse.
    """
    pairs = off_diagonal(cosines)
    if half_space:
        pairs = torch.cat((pairs, -pairs), dim=-1)
    squares = squared_distances(pairs) + eps
    return (squares.pow(-power / 2) if power else -0.5 * squares.log()).mean(-1)


@LOSSES.register_module()
class HypersphericalEnergyLoss(DiversityLoss):
    """Minimum hyperspherical energy (MHE). See :func:`hyperspherical_energy`.

    Least where directions are spread evenly over the sphere. With ``half_space=True`` over the
    lines through its centre: a direction and its opposite are then as alike as equal ones. Equal
    directions have the highest energy, but no gradient that would part them.

    Source: Liu et al., NeurIPS 2018 (arXiv 1805.09298), MHE and half-space MHE; theirs is the sum
    over pairs, ours the mean.

    Args:
        power (float): ``s``, not negative; 0 for the logarithmic energy. Defaults to 1.
        half_space (bool): Whether opposites repel too. Defaults to False.
        eps (float): Added to squared distances. Defaults to 1e-4.

    Raises:
        ValueError: If ``power`` is negative, or ``eps`` not above 0; at the first step, if there
            are fewer than two vectors.
    """

    formula = 'mean of 1 / ‖u_i − u_j‖ over i ≠ j'
    cost = 'M² D'

    def __init__(self, power: float = 1., half_space: bool = False, eps: float = 1e-4) -> None:
        self.power = check_not_negative('power', power)
        self.half_space = half_space
        self.eps = check_positive('eps', eps)

    def forward(self, record: Record) -> Tensor:
        return _map_in_float64(record, lambda cosines: hyperspherical_energy(
            cosines, self.power, self.half_space, self.eps))


def separation(squares: Tensor, temperature: float = 0.) -> Tensor:
    r"""Smallest squared distance, or a smooth form of it.

    .. math:: \min_{i \ne j} d_{ij}^2 \qquad \text{or} \qquad
        -\tau \log \frac{1}{M (M - 1)} \sum_{i \ne j} e^{-d_{ij}^2 / \tau}

    Args:
        squares (Tensor): Squared distances, ``(B, M, M)``.
        temperature (float): ``tau``. The smooth form lies between the smallest, for 0, and the
            mean, for infinity.

    Returns:
        Tensor: ``(B,)``, in [0, 4]. Higher is more diverse.
    """
    pairs = off_diagonal(squares)
    if temperature == 0:
        return pairs.amin(-1)
    log_mean = (-pairs / temperature).logsumexp(-1) - math.log(pairs.size(-1))
    return -temperature * log_mean


def authors_separation(squares: Tensor, zero: float = 0.) -> Tensor:
    """Smallest squared distance as Chen et al. compute it.

    Pairs at a distance of exactly 0 are left out, and all pairs that share the smallest distance
    add up.

    Args:
        squares (Tensor): Squared distances, ``(B, M, M)``.
        zero (float): Up to which distance, either way, a pair is left out.

    Returns:
        Tensor: ``(B,)``; 0 where no distance is above 0.
    """
    num = squares.size(-1)
    row, column = torch.tril_indices(num, num, -1, device=squares.device)
    pairs = squares[:, row, column]
    smallest = pairs.masked_fill(pairs.abs() <= zero, math.inf).amin(-1, keepdim=True)
    return (pairs * (pairs == smallest)).sum(-1)


@LOSSES.register_module()
class HypersphericalSeparationLoss(DiversityLoss):
    r"""Maximum hyperspherical separation (MHS): the nearest two directions apart.

    .. math:: -\min_{i \ne j} \lVert \hat x_i - \hat x_j \rVert^2

    in ``[-2 M / (M - 1), 0]``, because directions have no larger mean distance; lower is more
    diverse. The default is smooth (see :func:`separation`), so that
    every close pair receives a gradient and not the closest alone; ``temperature=0`` is the exact
    minimum. Two equal directions have the highest loss, but no gradient that would part them.

    ``official=True`` is the authors' form, which misleads where it matters most: pairs at a
    distance of exactly 0, the worst there are, are left out, and pairs that share the smallest
    distance add up, so that more of them look better.

    Source: Liu et al., AISTATS 2021 (arXiv 2103.01649), maximum hyperspherical separation; Chen
    et al., CVPR 2022 (arXiv 2203.06345).

    Args:
        temperature (float): Of the smooth minimum, in units of squared distance, not negative.
            Defaults to 0.1.
        official (bool): Use the authors' form, which ignores ``temperature``. Defaults to False.

    Raises:
        ValueError: If ``temperature`` is negative; at the first step, if there are fewer than two
            vectors.
    """

    formula = '− smooth min of ‖u_i − u_j‖² over i ≠ j'
    cost = 'M² D'

    def __init__(self, temperature: float = 0.1, official: bool = False) -> None:
        self.temperature = check_not_negative('temperature', temperature)
        self.official = official

    def forward(self, record: Record) -> Tensor:
        if self.official:
            # Which distances are 0 is a matter of the vectors' precision: of differences from 2.
            zero = torch.finfo(record.dtype).eps
            return -_map_in_float64(record, lambda gram: authors_separation(
                authors_squared_distances(gram), zero), normalize=False)
        return -_map_in_float64(
            record, lambda cosines: separation(squared_distances(cosines), self.temperature))


def negative_log_determinant(squares: Tensor, bandwidth: float = 1., jitter: float = 1e-6
                             ) -> Tensor:
    r"""Negative log-determinant of a Gaussian kernel matrix, by Cholesky in float64.

    .. math:: -\log \det (K + \delta I), \qquad K_{ij} = e^{-\epsilon d_{ij}^2}

    Args:
        squares (Tensor): Squared distances, ``(B, M, M)``.
        bandwidth (float): ``epsilon``.
        jitter (float): ``delta``, which keeps equal directions away from a determinant of 0.

    Returns:
        Tensor: ``(B,)``, in the dtype of ``squares``; at least :math:`-M \log(1 + \delta)`, which
        is nearly 0 and comes near for a large ``bandwidth`` alone, because directions are at most
        2 apart; at most :math:`-(M - 1) \log \delta`. Lower is more diverse.
    """
    kernel = (-bandwidth * squares.double()).exp()
    identity = torch.eye(kernel.size(-1), dtype=kernel.dtype, device=kernel.device)
    factor, failed = torch.linalg.cholesky_ex(kernel + jitter * identity)
    diagonal = torch.diagonal(factor, dim1=-2, dim2=-1)
    # A kernel that is not positive comes of NaN or inf in the vectors, and may not be hidden.
    diagonal = diagonal.masked_fill((failed != 0).unsqueeze(-1), math.nan)
    return -2 * diagonal.log().sum(-1).to(squares.dtype)


@LOSSES.register_module()
class GramDeterminantLoss(DiversityLoss):
    """Maximum Gram determinant (MGD): the volume that directions span in a Gaussian kernel.

    See :func:`negative_log_determinant`. Unlike the nearest pair alone it sees all vectors, and
    unlike a mean over pairs it makes every direction that repeats another cost nearly
    ``-log(jitter)``.

    ``official=True`` uses the authors' norms, see :func:`.authors_squared_distances`. Theirs is
    computed in the precision of the vectors, which gives NaN for nearly equal ones in float32;
    ours in float64 always.

    Source: Liu et al., AISTATS 2021 (arXiv 2103.01649), maximum Gram determinant; Chen et al.,
    CVPR 2022 (arXiv 2203.06345).

    Args:
        bandwidth (float): Factor of the squared distances in the kernel, above 0. Defaults to 1.
        jitter (float): Added to the diagonal of the kernel, above 0. Defaults to 1e-6.
        official (bool): Use the authors' norms. Defaults to False.

    Raises:
        ValueError: If ``bandwidth`` or ``jitter`` is not above 0; at the first step, if there are
            fewer than two vectors.
    """

    formula = '− log det(exp(−‖u_i − u_j‖²) + 10⁻⁶ I)'
    cost = 'M² D + M³'

    def __init__(self, bandwidth: float = 1., jitter: float = 1e-6, official: bool = False
                 ) -> None:
        self.bandwidth = check_positive('bandwidth', bandwidth)
        self.jitter = check_positive('jitter', jitter)
        self.official = official

    def forward(self, record: Record) -> Tensor:
        distances = authors_squared_distances if self.official else squared_distances
        return _map_in_float64(record, lambda gram: negative_log_determinant(
            distances(gram), self.bandwidth, self.jitter), normalize=not self.official)
