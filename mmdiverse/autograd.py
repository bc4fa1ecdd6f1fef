"""Gradients that are found in the forward pass."""
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a second derivative of a function whose gradient is computed by hand.

    PyTorch's decorator of this name takes what was saved in the forward pass for constant, and
    leaves a second derivative silently wrong where the gradient from above is constant too.

    Args:
        backward (Callable): ``backward`` of a ``torch.autograd.Function``.

    Returns:
        Callable: The same, which raises RuntimeError under ``create_graph=True``.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError('this diversity term can be differentiated only once, but a second '
                               'derivative is asked for (`create_graph=True`)')
        return backward(ctx, *grads)

    return checked
