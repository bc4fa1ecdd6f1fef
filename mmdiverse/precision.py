"""The precision in which diversity is computed."""
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

#: Entries that are added up one after the other in float32. Beyond, what is added is so much less
#: than what is there that digits get lost: of a million equal numbers, the third one.
PIECE = 2**12


def at_least_float32(tensor: Tensor) -> Tensor:
    """Raise the precision of what autocast or half-precision weights gave.

    Args:
        tensor (Tensor): Of any shape and floating-point type.

    Returns:
        Tensor: ``tensor`` in float32, or unchanged where it is float64 already.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context without mixed precision, on any device.

    Args:
        device (torch.device): Of the tensors; tensors without memory (``'meta'``) know no autocast.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def length(vectors: Tensor) -> Tensor:
    r"""Euclidean length of vectors, however long, to all digits.

    .. math:: \sqrt{\textstyle\sum_i x_i^2}

    On a CPU ``torch.linalg.vector_norm`` adds up one entry after the other, over two dimensions as
    well; ``Tensor.sum`` adds by halves, and needs no such care.

    Args:
        vectors (Tensor): ``(..., D)``.

    Returns:
        Tensor: ``(...)``; without gradient at a zero vector.
    """
    size = vectors.size(-1)
    if size <= PIECE:
        # vector_norm's subgradient at zero is zero, so a zero vector gets no NaN gradient.
        return torch.linalg.vector_norm(vectors, dim=-1)
    # As many pieces as a piece has entries, or fewer, and what is left over.
    whole = size - size % PIECE
    lengths = torch.linalg.vector_norm(vectors[..., :whole].unflatten(-1, (-1, PIECE)), dim=-1)
    rest = torch.linalg.vector_norm(vectors[..., whole:], dim=-1, keepdim=True)
    return length(torch.cat((lengths, rest), dim=-1))


def inner_products(first: Tensor, second: Tensor) -> Tensor:
    r"""Inner products of every two of some vectors, however long, to all digits.

    .. math:: A B^\top

    Args:
        first (Tensor): ``A``, ``(..., M, D)``.
        second (Tensor): ``B``, ``(..., N, D)``.

    Returns:
        Tensor: ``(..., M, N)``.
    """
    if first.size(-1) <= PIECE:
        return first @ second.mT
    pieces = zip(first.split(PIECE, dim=-1), second.split(PIECE, dim=-1))
    return torch.stack([a @ b.mT for a, b in pieces]).sum(0)
