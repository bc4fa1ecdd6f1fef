"""Functions of the inner products of softmax attention maps that are never stored."""
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from .autograd import once_differentiable
from .precision import at_least_float32, inner_products, length


class Budget(NamedTuple):
    """Entries of maps that may exist at a time.

    Attributes:
        total (int): Of all images.
        image (int): Of one image.
    """

    total: int
    image: int


#: On a CPU few, so that they stay in its cache from one operation to the next.
CPU_BUDGET = Budget(2**20, 2**20)
#: Enough that every operation has something to do, and no more of an image than leaves memory far
#: below that of its maps.
GPU_BUDGET = Budget(2**24, 2**22)

#: A function of Gram matrices ``(B, M, M)``, and of further tensors with one entry per item, that
#: gives ``(B,)`` and treats every item on its own.
GramFunction = Callable[..., Tensor]


def budget_of(device: torch.device) -> Budget:
    """The budget on a device."""
    return CPU_BUDGET if device.type == 'cpu' else GPU_BUDGET


def softmax_maps(q: Tensor, k: Tensor, scale: float) -> Tensor:
    r"""Softmax attention maps.

    .. math:: A = \mathrm{softmax}(s\, Q K^\top)

    Args:
        q (Tensor): Queries ``(..., N, d)``.
        k (Tensor): Keys ``(..., M, d)``.
        scale (float): ``s``.

    Returns:
        Tensor: ``(..., N, M)``; rows sum to 1.
    """
    if torch.is_grad_enabled():
        return ((q * scale) @ k.mT).softmax(dim=-1)
    # Queries and keys are laid out once, and new memory costs a CPU its time.
    scores = q.new_empty((math.prod(q.shape[:-2]), q.size(-2), k.size(-2)))
    torch.baddbmm(scores, q.reshape(-1, *q.shape[-2:]), k.reshape(-1, *k.shape[-2:]).mT, beta=0,
                  alpha=scale, out=scores)
    return torch.softmax(scores, dim=-1, out=scores).view(*q.shape[:-1], -1)


def entropy_scale(keys: int) -> int:
    """A power of two near the number of keys; see :func:`mean_entropy`."""
    return 2**round(math.log2(keys))


def mean_entropy(scaled: Tensor) -> Tensor:
    r"""Entropy of the rows of each map in nats, mean over the rows.

    .. math:: \frac1N \sum_i -\sum_j a_{ij} \log a_{ij}

    Args:
        scaled (Tensor): Maps whose rows sum to 1, ``(B, H, N, M)``, times
            :func:`entropy_scale`; all above 0.

    Returns:
        Tensor: ``(B, H)``, in float64, in ``[0, log M]``.
    """
    # Logarithms of what is near 1 are near 0, and keep the digits in which two heads differ.
    # Products of one row and one column take fewer passes than a sum of products; what they round
    # differs from row to row, so of the mean over many rows more digits are right.
    scale = entropy_scale(scaled.size(-1))
    rows = scaled.flatten(0, 2)[:, None]
    products = inner_products(rows, rows.log()).view(scaled.shape[:-1])
    return math.log(scale) - products.double().mean(-1) / scale


class _MapGram(torch.autograd.Function):
    """See :func:`map_gram_of_maps`.

    Where the maps of an image fit into a block, their gradient is found while they exist, in the
    forward pass, and scaled in the backward pass. Larger ones are computed a second time then.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float, function: GramFunction,
                *items: Tensor) -> Tensor:
        trains = any(ctx.needs_input_grad)
        blocks = _Blocks(q, k, scale)
        grads = blocks.new_gradients() if trains and len(blocks.rows) == 1 else None
        values, grad_grams = [], []
        for images in blocks.images:
            own_q, own_k = blocks.take(images)
            gram = 0
            for rows in blocks.rows:
                maps = blocks.maps(own_q[:, :, rows], own_k).flatten(2)
                gram = gram + inner_products(maps, maps)
            with torch.enable_grad():
                gram.requires_grad_(trains)
                value = function(gram, *(item[images] for item in items))
                total = value.sum()
            values.append(value.detach())
            if not trains:
                continue
            grad_gram, = torch.autograd.grad(total, gram)
            if grads is None:
                grad_grams.append(grad_gram)
            else:
                grads[0][images], grads[1][images] = blocks.gradients(own_q, own_k, grad_gram)
        ctx.scale, ctx.stored, ctx.dtypes = scale, grads is not None, (q.dtype, k.dtype)
        if ctx.stored:
            ctx.save_for_backward(*grads)
        elif trains:
            ctx.save_for_backward(torch.cat(grad_grams), q, k)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad[:, None, None]
        if ctx.stored:
            grads = [grad[..., None] * stored for stored in ctx.saved_tensors]
        else:
            grad_gram, q, k = ctx.saved_tensors
            grad_gram = grad_gram * grad
            blocks = _Blocks(q, k, ctx.scale)
            grads = blocks.new_gradients()
            grads[1].zero_()
            for images in blocks.images:
                own_q, own_k = blocks.take(images)
                for rows in blocks.rows:
                    blocks.maps(own_q[:, :, rows], own_k)
                    grad_q, grad_k = blocks.gradients(own_q[:, :, rows], own_k, grad_gram[images])
                    grads[0][images, :, rows] = grad_q
                    grads[1][images] += grad_k
        extra = [None] * (len(ctx.needs_input_grad) - 2)
        cast = [each.to(dtype) for each, dtype in zip(grads, ctx.dtypes)]
        _underflow.look_at(cast, grads)
        return *cast, *extra


class _Underflow:
    """Warns once where float16 loses gradients, which nothing after it would show.

    Queries and keys in float16 have gradients in float16, and a small coefficient over a large
    batch goes below the smallest number there is, loss scale or not.
    """

    #: Part of the length of a gradient, beyond what rounding takes.
    LIMIT = 0.1

    def __init__(self) -> None:
        self.calls = 0
        self.warned = False

    def look_at(self, cast: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Compare gradients with what they were before, ever more rarely: a GPU waits for it."""
        if self.warned or torch.float16 not in [each.dtype for each in cast]:
            return
        self.calls += 1
        if self.calls & (self.calls - 1):  # no power of two
            return
        lost, whole = (
            length(torch.stack([length(each.flatten()) for each in given])).item()
            for given in ([each - grad for each, grad in zip(cast, grads)], grads))
        if self.LIMIT * whole < lost < math.inf:
            self.warned = True
            print_log(f'float16 loses {lost / whole:.0%} of the gradient that a diversity term '
                      'gives to queries and keys, because its entries are too small for it; train '
                      "in bfloat16 (`optim_wrapper.dtype='bfloat16'`), or raise the `weight` of "
                      "terms with `on='attention'`", 'current', logging.WARNING)


_underflow = _Underflow()


class _Blocks:
    """Works on maps block by block, always in the same memory: new memory costs a CPU its time.

    Attributes:
        images (list[slice]): Images whose maps may exist at a time.
        rows (list[slice]): Rows of their maps that may exist at a time: all, where they fit.
    """

    def __init__(self, q: Tensor, k: Tensor, scale: float) -> None:
        self.q, self.k, self.scale = q, k, scale
        self.dtype = torch.promote_types(q.dtype, torch.float32)
        budget = budget_of(q.device)
        batch, heads, queries, _ = q.shape
        keys = k.size(2)
        rows = min(max(1, budget.image // (heads * keys)), queries)
        images = min(max(1, budget.total // (heads * keys * rows)), batch)
        self.rows = [slice(start, start + rows) for start in range(0, queries, rows)]
        self.images = [slice(start, start + images) for start in range(0, batch, images)]
        self._buffers = [torch.empty(images * heads * rows * keys, dtype=self.dtype,
                                     device=q.device) for _ in range(2)]

    def new_gradients(self) -> list[Tensor]:
        """Room for the gradients of queries and keys."""
        return [torch.empty(x.shape, dtype=self.dtype, device=x.device) for x in (self.q, self.k)]

    def take(self, images: slice) -> list[Tensor]:
        """Queries and keys of some images, laid out for the products that they enter."""
        return [at_least_float32(x[images]).contiguous() for x in (self.q, self.k)]

    def _spaces(self, q: Tensor) -> list[Tensor]:
        """The memory as two blocks ``(b, H, n, N)`` for queries ``(b, H, n, d)``."""
        shape = (*q.shape[:3], self.k.size(2))
        return [buffer[:math.prod(shape)].view(shape) for buffer in self._buffers]

    def maps(self, q: Tensor, k: Tensor) -> Tensor:
        """Some rows of the maps."""
        maps, scores = self._spaces(q)
        torch.matmul(q * self.scale, k.mT, out=scores)
        return torch.softmax(scores, dim=-1, out=maps)

    def gradients(self, q: Tensor, k: Tensor, grad_gram: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients for the rows of queries whose maps were made last.

        Returns:
            tuple[Tensor, Tensor]: That of these queries, and their share in that of the keys.
        """
        maps, grads = self._spaces(q)
        torch.matmul(grad_gram + grad_gram.mT, maps.flatten(2), out=grads.flatten(2))
        # Back through the softmax, row by row.
        grads *= maps
        grads.addcmul_(maps, grads.sum(-1, keepdim=True), value=-1)
        return (grads @ k).mul_(self.scale), (grads.mT @ q).mul_(self.scale)


def map_gram_of_maps(q: Tensor, k: Tensor, scale: float, function: GramFunction, *items: Tensor
                     ) -> Tensor:
    r"""A function of the Gram matrices of flattened softmax maps.

    .. math:: f(G), \qquad G_{hl} = \sum_{ij} A_{h,ij} A_{l,ij}, \qquad
        A_h = \mathrm{softmax}(s\, Q_h K_h^\top)

    Maps exist block by block, in the forward and in the backward pass, and nothing larger than
    ``q`` is kept in between.

    Args:
        q (Tensor): Queries ``(B, H, N, d)``.
        k (Tensor): Keys ``(B, H, M, d)``.
        scale (float): ``s``.
        function (Callable): ``f``, from ``(B, H, H)`` to ``(B,)``. It is called on some images at
            a time, so it must treat each on its own.
        *items (Tensor): Further arguments of ``f``, with one entry for each image.

    Returns:
        Tensor: ``(B,)``, in float32 or float64. It can be differentiated once.
    """
    if not torch.is_grad_enabled():
        q, k = q.detach(), k.detach()  # or a gradient would be found that nobody asks for
    return _MapGram.apply(q, k, scale, function, *items)
