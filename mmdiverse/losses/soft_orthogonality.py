"""Soft orthogonality: the distance of the Gram matrix from the identity."""
import torch
from torch import Tensor

from ..records import Record, check_records
from ..registry import LOSSES
from .base import DiversityLoss


def soft_orthogonality(record: Record, normalize: bool = True) -> Tensor:
    r"""Squared distance of the Gram matrix of the vectors from the identity.

    .. math:: \lVert G - I \rVert_F^2, \qquad G_{ij} = \hat x_i \cdot \hat x_j

    Computed from the smaller Gram matrix, at :math:`O(MD \min(M, D))`: where :math:`D < M`,
    :math:`\lVert X X^\top - I_M \rVert_F^2 = \lVert X^\top X - I_D \rVert_F^2 + M - D`.

    Args:
        record (Record): ``(B, M, D)``.
        normalize (bool): Of directions or of the vectors as they are.

    Returns:
        Tensor: ``(B,)``, at least 0; where the vectors outnumber the dimensions at least
        ``M (M - D) / D`` of directions, and ``M - D`` of vectors as they are. A tight frame is at
        the floor. Lower is more diverse.
    """
    check_records('soft_orthogonality', [record])
    num, dim = record.shape[1:]

    def distance(gram: Tensor) -> Tensor:
        identity = torch.eye(gram.size(-1), dtype=gram.dtype, device=gram.device)
        return (gram - identity).square().sum((-2, -1)) + (num - gram.size(-1))

    return record.map_gram(distance, normalize=normalize, smaller=True)


@LOSSES.register_module()
class SoftOrthogonalityLoss(DiversityLoss):
    """Squared distance of the Gram matrix from the identity. See :func:`soft_orthogonality`.

    The default takes directions, so that only angles count; it is then ``M (M - 1)`` times the
    squared :class:`~mmdiverse.losses.CosineLoss`. The authors do so for patches, and take weights
    and attention maps as they are (``normalize=False``): that also asks for unit length, which
    suits weights that are trained for it. For attention maps it misleads: their entries are
    positive, so neither length nor angle can reach its goal but by spreading, and uniform maps,
    all alike, score better than sharp ones that differ.

    Source: Bansal et al., NeurIPS 2018 (arXiv 1810.09102), soft orthogonality; Chen et al., CVPR
    2022 (arXiv 2203.06345).

    Args:
        normalize (bool): Use the directions of the vectors instead of the vectors. Defaults to
            True.

    Raises:
        ValueError: At the first step, if there are fewer than two vectors.
    """

    formula = '‖G − I‖² of directions'
    cost = 'M D min(M, D)'

    def __init__(self, normalize: bool = True) -> None:
        self.normalize = normalize

    def forward(self, record: Record) -> Tensor:
        return soft_orthogonality(record, self.normalize)
