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


def _squared_shift(z: Tensor, gx: Tensor, ggx: Tensor, gz: Tensor, ggz: Tensor,
                   eps: float) -> Tensor:
    """The loss, given ``Gx, GGx, Gz, GGz``; each ``(B, M)``."""

    def quotient(image: Tensor, vector: Tensor) -> Tensor:
        # Of a zero vector it is 0, not NaN: y is zero at the very optimum, where G is l I.
        square = vector.square().sum(-1, keepdim=True) + eps
        return (image * vector).sum(-1, keepdim=True) / \
            square.clamp_min(torch.finfo(square.dtype).tiny)

    largest = quotient(ggx, gx)
    y = gz - largest * z
    by = (ggz - largest * gz) - largest * y
    shift = quotient(by, y)
    return shift.square().squeeze(-1)


class _PowerStepSpread(torch.autograd.Function):
    """See :func:`power_step_eigenvalue_spread`.

    Autograd through the products would write a matrix as large as ``X`` for each of them. The
    gradient is a sum of four outer products of pairs, so one batched product of inner size eight
    writes it once. Pairs of vectors are rows ``(B, 2, M)``, which multiplies faster than columns.
    """

    @staticmethod
    def forward(ctx: Any, starts: Tensor, eps: float, *parts: Tensor) -> Tensor:
        v1 = _times(starts, parts)
        p1 = _times_transposed(v1, parts).requires_grad_()
        v2 = _times(p1, parts)
        p2 = _times_transposed(v2, parts).requires_grad_()
        with torch.enable_grad():
            value = _squared_shift(starts[:, 1], p1[:, 0], p2[:, 0], p1[:, 1], p2[:, 1], eps)
            # Every item has a value of its own, so the gradient of the sum holds them all.
            grad_p1, grad_p2 = torch.autograd.grad(value.sum(), (p1, p2))
        ctx.save_for_backward(starts, v1, p1.detach(), v2, grad_p1, grad_p2, *parts)
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        starts, v1, p1, v2, grad_p1, grad_p2, *parts = ctx.saved_tensors
        # Back through p2 = v2 X', v2 = p1 X, p1 = v1 X', v1 = starts X, in this order.
        grad_v2 = _times(grad_p2, parts)
        grad_p1 = grad_p1 + _times_transposed(grad_v2, parts)
        grad_v1 = _times(grad_p1, parts)
        left = torch.cat((grad_p2, p1, grad_p1, starts), dim=1) * grad[:, None, None]
        right = torch.cat((v2, grad_v2, v1, grad_v1), dim=1)
        sizes = [len(part) for part in parts]
        return None, None, *(
            a.mT @ b if trains else None
            for a, b, trains in zip(left.split(sizes), right.split(sizes),
                                    ctx.needs_input_grad[2:]))


def _times(rows: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """``rows X``, ``(B, 2, D)``, where the items of ``X`` lie in several tensors."""
    return torch.cat([r @ x for r, x in zip(rows.split([len(x) for x in parts]), parts)])


def _times_transposed(rows: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """``rows X'``, ``(B, 2, M)``."""
    return _times(rows, [x.mT for x in parts])


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
    applications of :math:`G = X X^\top` to the pair :math:`[x_0, z_0]` give everything: four
    reads of ``X``, and three reads and one write in the backward pass.

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
