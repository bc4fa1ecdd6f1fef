"""How much of the gradient each loss gives."""
from collections.abc import Iterable, Mapping

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from .precision import at_least_float32, length, without_autocast


def gradient_norms(losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter],
                   scale: float = 1.) -> dict[str, float]:
    r"""The length of the gradient of each loss over all trainable parameters.

    .. math:: \lVert \nabla L \rVert_2 = \sqrt{\textstyle\sum_p \lVert \partial L / \partial p
        \rVert^2}

    In a distributed run that of the mean over the processes, which must all call this with the same
    losses. One gradient exists at a time. Graphs are kept, and ``.grad`` of the parameters and the
    random numbers are left alone, so that what is trained with afterwards is the same bit for bit.

    Args:
        losses (Mapping[str, Tensor]): Scalars with their graphs; one without any has no gradient.
        parameters (Iterable[Parameter]): Those that are frozen are left out.
        scale (float): Losses are multiplied, and lengths divided by it, so that no gradient gets
            lost in half precision. Defaults to 1.

    Returns:
        dict[str, float]: At least 0 each; infinite or NaN where half precision overflows.

    Raises:
        RuntimeError: If re-entrant activation checkpointing lies between a loss and a parameter.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    norms = {}
    for name, loss in losses.items():
        if not loss.requires_grad or not parameters:
            norms[name] = 0.
            continue
        # A backward pass takes the types of its forward pass; autocast would cast once more.
        with without_autocast(loss.device):
            gradients = torch.autograd.grad(loss * scale, parameters, retain_graph=True,
                                            materialize_grads=True)
        lengths = torch.stack([_norm(gradient) for gradient in gradients])
        norms[name] = length(lengths).item() / scale
    return norms


def gradient_shares(norms: Mapping[str, float]) -> dict[str, float]:
    r"""The part that each length has in the sum of all.

    .. math:: s_i = \lVert g_i \rVert / \textstyle\sum_j \lVert g_j \rVert

    Args:
        norms (Mapping[str, float]): As :func:`gradient_norms` returns them.

    Returns:
        dict[str, float]: In [0, 1], with a sum of 1; 0 each where no loss has a gradient.
    """
    total = sum(norms.values())
    return {name: norm / total if total else 0. for name, norm in norms.items()}


def _norm(gradient: Tensor) -> Tensor:
    # A copy: gradients may share their memory.
    mean = at_least_float32(gradient).clone(memory_format=torch.contiguous_format)
    all_reduce(mean, op='mean')
    return length(mean.flatten())
