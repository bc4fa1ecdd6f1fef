"""Conditional orthogonality: the spread of the eigenvalues of the Gram matrix."""
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import once_differentiable
from ..precision import inner_products
from ..records import Record
from ..registry import LOSSES
from .base import DiversityLoss, check_choice, check_not_negative
from .extreme_eigenvalues import ExtremeEigenvalues


def eigenvalue_spread(extremes: Tensor) -> Tensor:
    r"""Squared distance between the extreme eigenvalues of a Gram matrix.

    .. math:: (\lambda_{\max}(G) - \lambda_{\min}(G))^2, \qquad G = X X^\top

    Args:
        extremes (Tensor): Largest and smallest eigenvalue, ``(B, 2)``.

    Returns:
        Tensor: ``(B,)``, at least 0; 0 where the vectors are orthogonal and of equal length. Lower
        is more diverse.
    """
    return (extremes[:, 0] - extremes[:, 1]).square()


class _PowerStepSpread(torch.autograd.Function):
    """See :func:`power_step_eigenvalue_spread`.

    The gradient is a sum of outer products of pairs of vectors, all of them combinations of
    ``s``, ``Gs`` and ``GGs`` for the two starts ``s``. All their products with ``X`` are made
    together, tensor by tensor while it is in the cache; the backward pass is one product of inner
    size eight. Pairs are rows ``(B, 2, M)``, which multiplies faster than columns.
    """

    @staticmethod
    def forward(ctx: Any, starts: Tensor, eps: float, *parts: Tensor) -> Tensor:
        ctx.sizes = [len(part) for part in parts]
        products = []
        for x, start in zip(parts, starts.split(ctx.sizes)):
            v1 = start @ x
            p1 = inner_products(v1, x)
            v2 = p1 @ x
            p2 = inner_products(v2, x)
            products.append((p1, p2, v1, v2, p2 @ x))
        p1, p2, v1, v2, v3 = (torch.cat(product) for product in zip(*products))
        step = _power_step(starts, p1, p2, eps)
        # The gradients with respect to p2 and p1, then their products with X.
        left2, left1 = _gradients(step, starts, p1, p2)
        right2, right1 = _gradients(step, v1, v2, v3)
        ctx.save_for_backward(torch.cat((left2, p1, left1, starts), dim=1),
                              torch.cat((v2, right2, v1, right1), dim=1))
        return step.shift.square().flatten()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        pairs = zip((left * grad[:, None, None]).split(ctx.sizes), right.split(ctx.sizes))
        return None, None, *(a.mT @ b if trains else None for (a, b), trains in
                             zip(pairs, ctx.needs_input_grad[2:]))


class _PowerStep(NamedTuple):
    """One power step on each of two matrices, every entry ``(B, 1)``.

    Attributes:
        largest: The quotient ``l`` for ``G``.
        shift: The quotient ``t`` for ``G - l I``.
        x_factor: Derivative of ``t^2`` with respect to ``Gx . GGx``.
        z_factor: Derivative of ``t^2`` with respect to ``y . (G - l I) y``.
    """

    largest: Tensor
    shift: Tensor
    x_factor: Tensor
    z_factor: Tensor


def _power_step(starts: Tensor, p1: Tensor, p2: Tensor, eps: float) -> _PowerStep:
    """Both quotients, given ``[x, z]``, ``p1 = [Gx, Gz]`` and ``p2 = [GGx, GGz]``, ``(B, 2, M)``.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1, keepdim=True)

    def square(a: Tensor) -> Tensor:
        # Where a denominator is 0, so is the numerator: y is zero at the very optimum, where G is
        # l I. Their quotient then counts as 0.
        return (dot(a, a) + eps).clamp_min(torch.finfo(a.dtype).tiny)

    z, (gx, gz), (ggx, ggz) = starts[:, 1], p1.unbind(1), p2.unbind(1)
    x_square = square(gx)
    largest = dot(ggx, gx) / x_square
    y = gz - largest * z
    by = ggz - largest * (gz + y)
    y_square = square(y)
    shift = dot(by, y) / y_square
    # Through l: dBy = -2 y dl and dy = -z dl.
    z_factor = 2 * shift / y_square
    x_factor = -z_factor * (2 * dot(y, y) + dot(by - 2 * shift * y, z)) / x_square
    return _PowerStep(largest, shift, x_factor, z_factor)


def _gradients(step: _PowerStep, starts: Tensor, p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``t^2`` with respect to ``p2`` and ``p1``, the latter also through ``p2``.

    They are linear in the vectors, so of the products with ``X`` they give the products.
    """
    largest, shift, x_factor, z_factor = step
    z, (gx, gz), (ggx, ggz) = starts[:, 1], p1.unbind(1), p2.unbind(1)
    y = gz - largest * z
    # dl = (Gx . dGGx + (GGx - 2 l Gx) . dGx) / |Gx|^2, and dt = (y . dBy + (By - 2 t y) . dy) /
    # |y|^2; to both comes G times the gradient with respect to GGx and GGz.
    grad_p2 = torch.stack((x_factor * gx, z_factor * y), dim=1)
    grad_p1 = torch.stack((2 * x_factor * (ggx - largest * gx),
                           z_factor * (2 * (ggz - largest * gz)
                                       - (3 * largest + 2 * shift) * y)), dim=1)
    return grad_p2, grad_p1


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
    applications of :math:`G = X X^\top` to the pair :math:`[x_0, z_0]` give everything: five
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


def power_step_of_gram(gram: Tensor, starts: Tensor, eps: float = 0.) -> Tensor:
    """The estimate of :func:`.power_step_eigenvalue_spread` where the Gram matrix is at hand.

    Args:
        gram (Tensor): ``(B, M, M)``.
        starts (Tensor): ``(B, 2, M)``.
        eps (float): Added to the denominators.

    Returns:
        Tensor: ``(B,)``, at least 0. Lower is more diverse.
    """
    # Few vectors, so in float64: near the optimum, the differences in it leave few digits.
    dtype, gram, starts = gram.dtype, gram.double(), starts.double()
    products = starts @ gram
    step = _power_step(starts, products, products @ gram, eps)
    return step.shift.square().flatten().to(dtype)


@LOSSES.register_module()
class ConditionalOrthogonalityLoss(DiversityLoss):
    r"""Spread of the eigenvalues of the Gram matrix of the vectors.

    .. math:: (\lambda_{\max}(G) - \lambda_{\min}(G))^2, \qquad G = X X^\top

    in ``[0, inf)``. Lower is more diverse: least where the vectors are orthogonal and equally
    long, which conditions the matrix well. Where the vectors outnumber the dimensions
    :math:`\lambda_{\min} = 0`, and what is left is to make all vectors short; of directions it is
    then at least ``(M / D)^2``, as of a tight frame.

    ``'exact'`` eigenvalues, the default, cost a decomposition; ``'power'`` follows them from step
    to step for weights, at next to no cost (see :class:`~mmdiverse.losses.ExtremeEigenvalues`). It
    lags a little behind while weights change fast; more ``steps`` bring it nearer. ``'official'``
    is the authors' estimate from one step of power iteration (see
    :func:`power_step_eigenvalue_spread`). It is well below the true value, changes with its random
    starts, and is not to be compared with the others; its gradient moves all directions a little,
    not the extreme ones.

    Random starts come from a generator of their own, seeded by
    :class:`~mmdiverse.hooks.DiversityHook` from the run's seed and the iteration: a resumed run
    draws what the uninterrupted one would have drawn, all ranks draw alike, and the host's random
    numbers stay untouched.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), conditional orthogonality of weights,
    embeddings and attention.

    Args:
        method (str): ``'exact'``, ``'power'`` or ``'official'``. Defaults to ``'exact'``.
        steps (int): Steps of ``'power'``. Defaults to 1.
        normalize (bool): Use the directions of the vectors instead of the vectors. The authors
            do so for patches, and not for heads and weights. Defaults to False.
        start (str): Distribution of the starts of ``'official'``: ``'uniform'`` on [0, 1) (the
            authors' for weights) or ``'normal'`` (theirs for patches and heads). Defaults to
            ``'uniform'``.
        eps (float): Added to the denominators of ``'official'``. The authors add ``1e-6`` for
            patches and heads, and nothing for weights. Defaults to 0.

    Raises:
        ValueError: If ``method`` or ``start`` is unknown, ``steps`` below 1, or ``eps`` negative
            or not finite; at the first step, if there are fewer than two vectors.
    """

    formula = '(λ_max(G) − λ_min(G))²'
    cost = 'M D min(M, D); power, official M D'

    def __init__(self,
                 method: str = 'exact',
                 steps: int = 1,
                 normalize: bool = False,
                 start: str = 'uniform',
                 eps: float = 0.) -> None:
        self.method = check_choice('method', method, ('exact', 'power', 'official'))
        self.eigenvalues = ExtremeEigenvalues('exact' if method == 'official' else method, steps)
        self.normalize = normalize
        self.start = check_choice('start', start, ('uniform', 'normal'))
        self.eps = check_not_negative('eps', eps)

    @property
    def state(self) -> dict[str, Tensor]:
        return self.eigenvalues.state

    def forward(self, record: Record) -> Tensor:
        if self.method == 'official':
            return self._official(record)
        num, dim = record.shape[1:]
        # Extremes of the smaller Gram matrix: with more vectors than dimensions the other one
        # has a zero eigenvalue.
        smallest = float(num <= dim)
        return self.eigenvalues.map(
            record, lambda extremes: eigenvalue_spread(
                extremes * extremes.new_tensor([1., smallest])), self.normalize, self.generator)

    def _official(self, record: Record) -> Tensor:
        starts = self.draw_starts(record)
        if record.level == 'attention':
            return record.precise().map_gram(
                lambda gram, start: power_step_of_gram(gram, start, self.eps),
                starts.transpose(0, 1), normalize=self.normalize).to(record.dtype)
        parts = [record.unit_vectors()] if self.normalize else record.parts()
        return power_step_eigenvalue_spread(parts, starts, self.eps)

    def draw_starts(self, record: Record) -> Tensor:
        """Draw the starts ``(2, B, M)`` of one power step."""
        draw = torch.rand if self.start == 'uniform' else torch.randn
        return draw(2, record.total, record.shape[1], generator=self.generator,
                    device=record.device, dtype=record.dtype)[:, record.items]
