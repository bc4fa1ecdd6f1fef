"""Summaries of softmax attention maps that are never stored."""
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Entries of maps that exist at a time. On a CPU few, so that they stay in its cache from one
#: operation to the next; elsewhere many, so that every operation has enough to do.
MAX_ENTRIES_CPU = 2**18
MAX_ENTRIES = 2**27


def softmax_maps(q: Tensor, k: Tensor, scale: float) -> Tensor:
    r"""Softmax attention maps.

    .. math:: A = \mathrm{softmax}(s\, Q K^\top)

    Args:
        q (Tensor): Queries ``(..., N, d)``.
        k (Tensor): Keys ``(..., N, d)``.
        scale (float): ``s``.

    Returns:
        Tensor: ``(..., N, N)``; rows sum to 1.
    """
    return ((q * scale) @ k.mT).softmax(dim=-1)


class _SquaredMeanDirection(torch.autograd.Function):
    """See :func:`squared_mean_map_direction`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float) -> Tensor:
        value = q.new_empty(q.size(0))
        grad_q, grad_k = torch.empty_like(q), torch.empty_like(k)
        for part in _chunks(q):
            maps = softmax_maps(q[part], k[part], scale)
            flat = maps.flatten(2)
            weights = _weights(flat)
            mean = weights.mT @ flat
            value[part] = mean.square().sum((-2, -1))
            if not any(ctx.needs_input_grad):
                continue
            # Of a unit vector u = a / |a|, the gradient g becomes (g - (g.u) u) / |a|. Factors are
            # left to the end, where they meet tensors smaller than the maps.
            along = (flat @ mean.mT) * (weights * flat.size(1)).square()
            grad_maps = torch.addcmul(mean, along, flat, value=-1).view_as(maps)
            # Back through the softmax, row by row.
            grad_maps *= maps
            grad_maps.addcmul_(maps, grad_maps.sum(-1, keepdim=True), value=-1)
            factor = (2 * scale * weights).unsqueeze(-1)
            torch.mul(grad_maps @ k[part], factor, out=grad_q[part])
            torch.mul(grad_maps.mT @ q[part], factor, out=grad_k[part])
        ctx.save_for_backward(grad_q, grad_k)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_q, grad_k = ctx.saved_tensors
        grad = grad[:, None, None, None]
        return grad * grad_q, grad * grad_k, None


def _weights(flat: Tensor) -> Tensor:
    """``1 / (H |A_h|)``, ``(B, H, 1)``. A map's norm is at least 1, since its rows sum to 1."""
    return (torch.linalg.vector_norm(flat, dim=-1, keepdim=True) * flat.size(1)).reciprocal()


def _chunks(q: Tensor) -> Iterator[slice]:
    """Parts of the batch whose maps may exist at a time."""
    entries = MAX_ENTRIES_CPU if q.device.type == 'cpu' else MAX_ENTRIES
    size = max(1, entries // (q.size(1) * q.size(2)**2))
    return (slice(start, start + size) for start in range(0, q.size(0), size))


def squared_mean_map_direction(q: Tensor, k: Tensor, scale: float) -> Tensor:
    r"""Squared norm of the mean over heads of the directions of flattened softmax maps.

    .. math:: \Big\lVert \frac1H \sum_h \frac{A_h}{\lVert A_h \rVert_F} \Big\rVert^2, \qquad
        A_h = \mathrm{softmax}(s\, Q_h K_h^\top)

    Maps exist for a few images at a time, and with them their share of the gradient is computed,
    so that nothing larger than ``q`` is kept for the backward pass.

    Args:
        q (Tensor): Queries ``(B, H, N, d)``.
        k (Tensor): Keys ``(B, H, N, d)``.
        scale (float): ``s``.

    Returns:
        Tensor: ``(B,)``, in (0, 1]; 1 where all heads attend alike. Lower is more diverse. It can
        be differentiated once.
    """
    return _SquaredMeanDirection.apply(q, k, scale)
