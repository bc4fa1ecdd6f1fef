"""Gradient diversity: how far the gradients of the patches of an image cancel."""
import torch
from torch import Tensor

from ..records import Record
from ..registry import LOSSES
from .base import DiversityLoss, check_choice


def gradient_diversity(gradients: Tensor) -> Tensor:
    r"""Squared lengths of gradients over the squared length of their sum.

    .. math:: \frac{\sum_i \lVert g_i \rVert^2}{\lVert \sum_i g_i \rVert^2}

    Args:
        gradients (Tensor): ``g``, ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, at least ``1 / M``, which equal gradients have; 1 for orthogonal ones,
        and no upper bound where they cancel. 0 where all are zero. Higher is more diverse.
    """
    lengths = gradients.square().sum((-2, -1))
    total = gradients.sum(1).square().sum(-1)
    # Where all are zero, as behind a head that starts at zero, a weight over `tiny` is infinite.
    return lengths / torch.where(lengths > 0, total.clamp_min(torch.finfo(total.dtype).tiny), 1)


def gradient_coherence(gradients: Tensor) -> Tensor:
    r"""Squared length of the mean gradient over the mean squared length.

    .. math:: \frac{\lVert \frac1M \sum_i g_i \rVert^2}{\frac1M \sum_i \lVert g_i \rVert^2}

    Args:
        gradients (Tensor): ``g``, ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, in [0, 1]: 1 for equal gradients, ``1 / M`` for orthogonal ones of one
        length, 0 where they cancel or all are zero. Lower is more diverse.
    """
    lengths = gradients.square().sum(-1).mean(-1)
    return gradients.mean(1).square().sum(-1) / torch.where(lengths > 0, lengths, 1)


@LOSSES.register_module()
class GradientDiversityLoss(DiversityLoss):
    """Makes the patches of an image ask for different changes.

    Its vectors are the gradients of the model's own loss with respect to the tokens of a layer, by
    default the last block. The default is :func:`gradient_coherence`, which is bounded.
    ``form='diversity'`` is the authors': the negative of :func:`gradient_diversity`, the same
    quotient upside down, which has no lower bound and grows without measure once gradients nearly
    cancel; where all are zero, theirs is NaN and ours 0.

    The gradients have to depend on the patches: a classifier that reads the class token alone has
    none at the output of its last block, and after average pooling all are equal. Use it with
    patch-level mixing, or at a layer before the last. The second derivative keeps what the first
    needed; before the last block that includes attention, which the hook then computes without
    fused kernels, since these can be differentiated only once.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), gradient diversity; Yin et al., AISTATS 2018
    (arXiv 1706.05699).

    Args:
        form (str): ``'coherence'`` or ``'diversity'``. Defaults to ``'coherence'``.

    Raises:
        ValueError: If ``form`` is unknown; at the first step, if there are fewer than two patches.
        RuntimeError: At the first step, if the model's loss does not depend on the tokens.
    """

    formula = '‖mean of g_i‖² / mean of ‖g_i‖² of gradients g'
    cost = 'M D, and a second backward pass'
    levels = ('patch', )
    of_gradients = True

    def __init__(self, form: str = 'coherence') -> None:
        self.form = check_choice('form', form, ('coherence', 'diversity'))

    def forward(self, record: Record) -> Tensor:
        if self.form == 'coherence':
            return gradient_coherence(record.vectors())
        return -gradient_diversity(record.vectors())
