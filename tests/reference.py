"""The formulas once more, slowly: plain loops in float64 that import nothing of the package.

Functions take the rows of one item of a batch, ``(M, D)``, and return a scalar that autograd can
follow, unless they say otherwise.
"""
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

EPS = 1e-8


def unit(vector: Tensor) -> Tensor:
    """The direction of a vector; a zero vector stays zero."""
    length = (vector * vector).sum().sqrt() if bool(vector.any()) else vector.sum()
    return vector / length.clamp_min(EPS)


def reduce(cosine: Tensor, form: str) -> Tensor:
    """The signed, absolute or squared value."""
    return {'signed': cosine, 'absolute': cosine.abs(), 'squared': cosine * cosine}[form]


def mean(values: Sequence[Tensor]) -> Tensor:
    return sum(values) / len(values)


def gram(rows: Tensor, normalize: bool) -> Tensor:
    """All inner products, one by one, ``(M, M)``."""
    rows = [unit(row) for row in rows] if normalize else list(rows)
    return torch.stack([torch.stack([(a * b).sum() for b in rows]) for a in rows])


def mean_direction(rows: Tensor) -> Tensor:
    """Mean of the directions, ``(D,)``."""
    return mean([unit(row) for row in rows])


def cosine(rows: Tensor, form: str, diagonal: bool) -> Tensor:
    """Mean over the pairs of vectors, those of a vector with itself only where ``diagonal``."""
    values = []
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if diagonal or i != j:
                values.append(reduce((unit(a) * unit(b)).sum(), form))
    return mean(values)


def cross_cosine(first: Tensor, second: Tensor, form: str) -> Tensor:
    """Mean over all pairs of one vector from each layer."""
    return mean([reduce((unit(a) * unit(b)).sum(), form) for a in first for b in second])


def contrastive(first: Tensor, second: Tensor) -> Tensor:
    """Mean over the vectors of log(1 + exp(mean over the others - own))."""
    values = []
    for i, a in enumerate(first):
        own = (unit(a) * unit(second[i])).sum()
        others = mean([(unit(a) * unit(b)).sum() for j, b in enumerate(second) if j != i])
        values.append(torch.log(1 + torch.exp(others - own)))
    return mean(values)


def eigenvalue_spread(rows: Tensor) -> Tensor:
    """(largest - smallest)^2 eigenvalue of the whole M x M Gram matrix; without gradient."""
    rows = rows.detach().numpy()
    eigenvalues = np.linalg.eigvalsh(rows @ rows.T)
    return torch.tensor((eigenvalues[-1] - eigenvalues[0])**2)


def power_step(rows: Tensor, first_start: Tensor, second_start: Tensor, eps: float) -> Tensor:
    """One step of power iteration on G, then one on G - l I, both matrices formed."""
    matrix = rows @ rows.T
    y = matrix @ first_start
    largest = ((matrix @ y) * y).sum() / ((y * y).sum() + eps)
    shifted = matrix - largest * torch.eye(len(rows), dtype=rows.dtype)
    w = shifted @ second_start
    shift = ((shifted @ w) * w).sum() / ((w * w).sum() + eps)
    return shift * shift


def attention_maps(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Softmax maps of one head ``(N, N)``, score by score, of queries and keys ``(N, d)``."""
    rows = []
    for query in q:
        weights = [math.exp(scale * float((query * key).sum())) for key in k]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows, dtype=torch.float64)


def patch_shares(box: tuple[int, int, int, int], image_size: tuple[int, int],
                 patch_size: tuple[int, int]) -> Tensor:
    """Per patch the mean over its pixels of 1 outside and 0 inside of a box, row by row."""
    (y1, y2, x1, x2), (height, width) = box, image_size
    own = [[0. if y1 <= y < y2 and x1 <= x < x2 else 1. for x in range(width)]
           for y in range(height)]
    shares = []
    for top in range(0, height, patch_size[0]):
        for left in range(0, width, patch_size[1]):
            pixels = [own[y][x] for y in range(top, top + patch_size[0])
                      for x in range(left, left + patch_size[1])]
            shares.append(sum(pixels) / len(pixels))
    return torch.tensor(shares, dtype=torch.float64)


def mixing_cross_entropy(logits: Tensor, label: int, mix_label: int, share: float,
                         smoothing: float) -> Tensor:
    """Cross-entropy of one token ``(C,)`` against its dense mixed and smoothed target."""
    classes = len(logits)
    off = smoothing / classes
    on = 1 - smoothing + off
    probabilities = logits.exp() / logits.exp().sum()
    loss = torch.zeros((), dtype=logits.dtype)
    for c in range(classes):
        target = share * (on if c == label else off) + (1 - share) * (on if c == mix_label else off)
        loss = loss - target * probabilities[c].log()
    return loss
