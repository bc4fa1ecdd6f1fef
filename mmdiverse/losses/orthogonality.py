"""Conditional orthogonality: the spread of the eigenvalues of the Gram matrix."""
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..records import Record
from ..registry import LOSSES
from .base import DiversityLoss, check_choice


def eigenvalue_spread(vectors: Tensor) -> Tensor:
    r"""Squared distance between the extreme eigenvalues of a Gram matrix, exactly.

    .. math:: (\lambda_{\max}(G) - \lambda_{\min}(G))^2, \qquad G = X X^\top

    Computed in float64 from the smaller of the two Gram matrices; where that is
    :math:`X^\top X`, :math:`G` is singular and :math:`\lambda_{\min} = 0`.

    Args:
        vectors (Tensor): ``X``, ``(B, M, D)``.

    Returns:
        Tensor: ``(B,)``, at least 0, in the dtype of ``vectors``; 0 where the vectors are
        orthogonal and of equal length. Lower is more diverse.
    """
    x = vectors.double()
    if x.size(1) <= x.size(2):
        eigenvalues = torch.linalg.eigvalsh(x @ x.mT)
        spread = eigenvalues[:, -1] - eigenvalues[:, 0]
    else:
        spread = torch.linalg.eigvalsh(x.mT @ x)[:, -1]
    return spread.square().to(vectors.dtype)


class _PowerStepSpread(torch.autograd.Function):
    """See :func:`power_step_eigenvalue_spread`.

    The gradient is a sum of four outer products of pairs of vectors. They are found in the
    forward pass, tensor by tensor while it is in the cache; the backward pass is one product of
    inner size eight. Pairs are rows ``(B, 2, M)``, which multiplies faster than columns.
    """

    @staticmethod
    def forward(ctx: Any, starts: Tensor, eps: float, *parts: Tensor) -> Tensor:
        values, factors = [], []
        for x, start in zip(parts, starts.split([len(part) for part in parts])):
            v1 = start @ x
            p1 = v1 @ x.mT
            v2 = p1 @ x
            p2 = v2 @ x.mT
            value, grad_p1, grad_p2 = _squared_shift(start[:, 1], p1, p2, eps)
            values.append(value)
            # Back through p2 = v2 X', v2 = p1 X, p1 = v1 X', v1 = start X, in this order.
            grad_v2 = grad_p2 @ x
            grad_p1 = grad_p1 + grad_v2 @ x.mT
            grad_v1 = grad_p1 @ x
            factors += [torch.cat((grad_p2, p1, grad_p1, start), dim=1),
                        torch.cat((v2, grad_v2, v1, grad_v1), dim=1)]
        ctx.save_for_backward(*factors)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors[::2], ctx.saved_tensors[1::2]
        grads = grad[:, None, None].split([len(part) for part in left])
        return None, None, *((a * g).mT @ b if trains else None for a, b, g, trains in
                             zip(left, right, grads, ctx.needs_input_grad[2:]))


def _squared_shift(z: Tensor, p1: Tensor, p2: Tensor, eps: float
                   ) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients, given ``p1 = [Gx, Gz]`` and ``p2 = [GGx, GGz]``.

    Args:
        z (Tensor): ``(B, M)``.
        p1 (Tensor): ``(B, 2, M)``.
        p2 (Tensor): ``(B, 2, M)``.
        eps (float): Added to the denominators.

    Returns:
        tuple[Tensor, Tensor, Tensor]: ``t^2`` of shape ``(B,)``, and its gradients with respect
        to ``p1`` and ``p2``.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1, keepdim=True)

    def square(a: Tensor) -> Tensor:
        # Where a denominator is 0, so is the numerator: y is zero at the very optimum, where G is
        # l I. Their quotient then counts as 0.
        return (dot(a, a) + eps).clamp_min(torch.finfo(a.dtype).tiny)

    (gx, gz), (ggx, ggz) = p1.unbind(1), p2.unbind(1)
    x_square = square(gx)
    largest = dot(ggx, gx) / x_square
    y = gz - largest * z
    by = ggz - largest * (gz + y)
    y_square = square(y)
    shift = dot(by, y) / y_square
    # dt = (y . dBy + r . dy) / |y|^2 with r = By - 2 t y, dBy = dGGz - 2 l dGz - 2 y dl and
    # dy = dGz - z dl; dl = (Gx . dGGx + (GGx - 2 l Gx) . dGx) / |Gx|^2.
    factor = 2 * shift / y_square
    rest = by - 2 * shift * y
    grad_largest = -factor * (2 * dot(y, y) + dot(rest, z)) / x_square
    grad_p1 = torch.stack((grad_largest * (ggx - 2 * largest * gx),
                           factor * (rest - 2 * largest * y)), dim=1)
    grad_p2 = torch.stack((grad_largest * gx, factor * y), dim=1)
    return shift.square().squeeze(-1), grad_p1, grad_p2


def power_step_eigenvalue_spread(vectors: Tensor | Sequence[Tensor], starts: Tensor,
                                 eps: float = 0.) -> Tensor:
    r"""Estimate of :func:`eigenvalue_spread` from a single step of power iteration each.

    .. math::
        y = G x_0, \quad \ell = \frac{y \cdot G y}{y \cdot y + \epsilon}, \qquad
        w = (G - \ell I) z_0, \quad t = \frac{w \cdot (G - \ell I) w}{w \cdot w + \epsilon},
        \qquad t^2

    :math:`\ell` stands for the largest eigenvalue and :math:`\ell + t` for the smallest. One step
    from a random start is a rough estimate: about a quarter of the true value for the weights of
    a DeiT-S at initialisation. Where a denominator is 0 the quotient counts as 0.

    ``G`` is never formed. Since :math:`(G - \ell I) w = GGz_0 - 2 \ell G z_0 + \ell^2 z_0`, two
    applications of :math:`G = X X^\top` to the pair :math:`[x_0, z_0]` give everything: seven
    reads of ``X`` for value and gradient, and one write.

    Args:
        vectors (Tensor | Sequence[Tensor]): ``X``, ``(B, M, D)``, maybe in several tensors
            ``(B_i, M, D)``.
        starts (Tensor): ``x_0`` and ``z_0``, ``(2, B, M)``.
        eps (float): Added to the denominators.

    Returns:
        Tensor: ``(B,)``, at least 0. Lower is more diverse. It can be differentiated once.
    """
    parts = [vectors] if isinstance(vectors, Tensor) else vectors
    return _PowerStepSpread.apply(starts.to(parts[0]).transpose(0, 1).contiguous(), eps, *parts)


@LOSSES.register_module()
class ConditionalOrthogonalityLoss(DiversityLoss):
    r"""Spread of the eigenvalues of the Gram matrix of the vectors.

    Least where the vectors are orthogonal and equally long, which conditions the matrix well. The
    default is exact, see :func:`eigenvalue_spread`. ``method='power'`` is the authors' estimate,
    see :func:`power_step_eigenvalue_spread`; it is far cheaper, and the two are not to be
    compared with one another.

    Starts of the power step come from a generator of their own, seeded by
    :class:`~mmdiverse.DiversityHook` from the run's seed and the iteration: a resumed run draws
    what the uninterrupted one would have drawn, all ranks draw alike, and the host's random
    numbers stay untouched.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), conditional orthogonality of weights,
    embeddings and attention.

    Args:
        method (str): ``'exact'`` or ``'power'``. Defaults to ``'exact'``.
        normalize (bool): Use the directions of the vectors instead of the vectors. The authors
            do so for patches, and not for heads and weights. Defaults to False.
        start (str): Distribution of the starts, ``'uniform'`` on [0, 1) (the authors' for
            weights) or ``'normal'`` (theirs for patches and heads). Defaults to ``'uniform'``.
        eps (float): Added to the denominators of the power step. The authors add ``1e-6`` for
            patches and heads, and nothing for weights. Defaults to 0.

    Attributes:
        generator (torch.Generator | None): Source of the starts; PyTorch's own when None.

    Raises:
        ValueError: If ``method`` or ``start`` is unknown, or ``eps`` negative or not finite.
    """

    min_vectors = 2

    def __init__(self,
                 method: str = 'exact',
                 normalize: bool = False,
                 start: str = 'uniform',
                 eps: float = 0.) -> None:
        self.method = check_choice('method', method, ('exact', 'power'))
        self.normalize = normalize
        self.start = check_choice('start', start, ('uniform', 'normal'))
        if not 0 <= eps < float('inf'):
            raise ValueError(f'`eps` must be finite and not negative, but got {eps}')
        self.eps = eps
        self.generator: torch.Generator | None = None

    def forward(self, record: Record) -> Tensor:
        if self.method == 'exact':
            return eigenvalue_spread(record.unit_vectors() if self.normalize else record.vectors())
        parts = [record.unit_vectors()] if self.normalize else record.parts()
        return power_step_eigenvalue_spread(parts, self.draw_starts(record), self.eps)

    def draw_starts(self, record: Record) -> Tensor:
        """Draw the starts ``(2, B, M)`` of one power step."""
        draw = torch.rand if self.start == 'uniform' else torch.randn
        like = record.parts()[0]
        return draw(2, *record.shape[:2], generator=self.generator, device=like.device,
                    dtype=like.dtype)
