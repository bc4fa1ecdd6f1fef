"""The precision in which diversity is computed."""
import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Raise the precision of what autocast or half-precision weights gave.

    Args:
        tensor (Tensor): Of any shape and floating-point type.

    Returns:
        Tensor: ``tensor`` in float32, or unchanged where it is float64 already.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()
