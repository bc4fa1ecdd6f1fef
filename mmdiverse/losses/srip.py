"""Spectral restricted isometry: the spectral distance of the Gram matrix from the identity."""
from torch import Tensor

from ..records import Record
from ..registry import LOSSES
from .base import DiversityLoss
from .extreme_eigenvalues import ExtremeEigenvalues


@LOSSES.register_module()
class SRIPLoss(DiversityLoss):
    r"""Spectral norm of the difference between the smaller Gram matrix and the identity.

    .. math:: \sigma(G - I) = \max(|\lambda_{\max}(G) - 1|, |\lambda_{\min}(G) - 1|), \qquad
        G = X X^\top \text{ or } X^\top X

    in ``[0, inf)``; 0 where the vectors are orthonormal. Where they outnumber the dimensions, at
    least ``M / D - 1`` of directions, because the eigenvalues of :math:`X^\top X` have the mean
    ``M / D``; vectors as they are can be short enough for 0. A tight frame is at the floor. Lower
    is more diverse. It bounds how much any combination of the vectors is stretched or
    shrunk, where :class:`~mmdiverse.losses.SoftOrthogonalityLoss` averages over them.

    Where the vectors outnumber the dimensions :math:`X^\top X` is taken, because
    :math:`X X^\top` is singular and could come no nearer to the identity than 1. The default
    takes directions; Bansal et al. take weights as they are (``normalize=False``), and two steps
    from a random start instead of eigenvalues. On un-normalised attention maps it rewards uniform
    maps, as soft orthogonality does.

    Source: Bansal et al., NeurIPS 2018 (arXiv 1810.09102), SRIP.

    Args:
        method (str): ``'exact'`` or ``'power'``; see
            :class:`~mmdiverse.losses.ExtremeEigenvalues`. Defaults to ``'exact'``.
        steps (int): Steps of power iteration. Defaults to 1.
        normalize (bool): Use the directions of the vectors instead of the vectors. Defaults to
            True.

    Raises:
        ValueError: If ``method`` is unknown or ``steps`` below 1; at the first step, if there are
            fewer than two vectors.
    """

    formula = 'max |λ(G) − 1| of directions'
    cost = 'M D min(M, D); power M D'

    def __init__(self, method: str = 'exact', steps: int = 1, normalize: bool = True) -> None:
        self.eigenvalues = ExtremeEigenvalues(method, steps)
        self.normalize = normalize

    @property
    def state(self) -> dict[str, Tensor]:
        return self.eigenvalues.state

    def forward(self, record: Record) -> Tensor:
        return self.eigenvalues.map(record, lambda extremes: (extremes - 1).abs().amax(-1),
                                    self.normalize, self.generator)
