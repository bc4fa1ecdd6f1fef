"""The formulas once more, slowly: plain loops in float64 that import nothing of the package.

Functions take the rows of one item of a batch, ``(M, D)``, and return a scalar that autograd can
follow, unless they say otherwise.
"""
import math
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

EPS = 1e-8


def unit(vector: Tensor) -> Tensor:
    """The direction of a vector; a zero vector stays zero."""
    length = (vector * vector).sum().sqrt() if bool(vector.any()) else vector.sum()
    return vector / length.clamp_min(EPS)


def directions(rows: Tensor) -> Tensor:
    """The directions of all rows, ``(M, D)``."""
    return torch.stack([unit(row) for row in rows])


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
    """Mean over the vectors of log(1 + exp(mean inner product with the others - own))."""
    values = []
    for i, a in enumerate(first):
        own = (a * second[i]).sum()
        others = mean([(a * b).sum() for j, b in enumerate(second) if j != i])
        values.append(torch.log(1 + torch.exp(others - own)))
    return mean(values)


def eigenvalues(rows: Tensor) -> np.ndarray:
    """Eigenvalues of the smaller Gram matrix, from singular values; without gradient."""
    return np.linalg.svd(rows.detach().numpy(), compute_uv=False)**2


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


def soft_orthogonality(rows: Tensor) -> Tensor:
    """Sum over all pairs of the squared distance of the inner product from 1 or 0."""
    return sum(((a * b).sum() - float(i == j))**2
               for i, a in enumerate(rows) for j, b in enumerate(rows))


def srip(rows: Tensor) -> Tensor:
    """Largest distance of an eigenvalue of the smaller Gram matrix from 1; without gradient."""
    return torch.tensor(max(abs(value - 1) for value in eigenvalues(rows)))


def energy(rows: Tensor, power: float, half_space: bool, eps: float) -> Tensor:
    """Mean of 1 / distance^power, or -log(distance), over the pairs of different directions."""
    values = []
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            for sign in (1, -1) if half_space else (1, ):
                if i != j:
                    square = ((unit(a) - sign * unit(b))**2).sum() + eps
                    values.append(1 / square.sqrt()**power if power else -square.sqrt().log())
    return mean(values)


def squared_distances(rows: Tensor) -> list[Tensor]:
    """Squared distance between the directions of every ordered pair of different vectors."""
    return [((unit(a) - unit(b))**2).sum() for i, a in enumerate(rows)
            for j, b in enumerate(rows) if i != j]


def separation(rows: Tensor, temperature: float) -> Tensor:
    """Smallest squared distance, or -t log mean exp(-squared distance / t)."""
    squares = squared_distances(rows)
    if temperature == 0:
        return min(squares)
    return -temperature * mean([(-square / temperature).exp() for square in squares]).log()


def authors_directions(rows: Tensor) -> list[Tensor]:
    """Normalised twice, with something added to the squared length each time."""
    for _ in range(2):
        rows = [row / ((row * row).sum() + 1e-8).sqrt() for row in rows]
    return rows


def authors_separation(rows: Tensor) -> Tensor:
    """Smallest 2 - 2 cos above 0, added up over the unordered pairs that have it."""
    rows = authors_directions(rows)
    squares = [2 - 2 * (rows[i] * rows[j]).sum() for i in range(len(rows)) for j in range(i)]
    smallest = min(square for square in squares if square != 0)
    return sum(square for square in squares if square == smallest)


def negative_log_determinant(rows: Sequence[Tensor], bandwidth: float, jitter: float) -> Tensor:
    """-log det of the kernel exp(-bandwidth (2 - 2 cos)) of directions; without gradient."""
    kernel = [[math.exp(-bandwidth * (2 - 2 * float((a * b).sum()))) + jitter * (i == j)
               for j, b in enumerate(rows)] for i, a in enumerate(rows)]
    return -torch.tensor(np.linalg.slogdet(np.array(kernel))[1])


def inner_product(rows: Tensor) -> Tensor:
    """Mean over all pairs, those of a vector with itself included."""
    return mean([(a * b).sum() for a in rows for b in rows])


def rank_collapse(rows: Tensor) -> Tensor:
    """1 - length of what is left without the mean / length of all."""
    center = mean(list(rows))
    left = sum(((row - center)**2).sum() for row in rows)
    return 1 - (left / sum((row**2).sum() for row in rows)).sqrt()


def gradient_diversity(rows: Tensor) -> Tensor:
    """Sum of the squared lengths / squared length of the sum."""
    total = sum(rows)
    return sum((row * row).sum() for row in rows) / (total * total).sum()


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


# Measures. All give float64, without gradient.


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def entropy(shares: Sequence[float], base: float = math.e) -> float:
    """-sum of p log p; 0 log 0 is 0."""
    return -sum(share * math.log(share, base) for share in shares if share > 0)


def of_pairs(function: Callable[[Tensor, Tensor], float], parts: Sequence[Tensor]) -> Tensor:
    """A function of every two of several tensors, ``(L, L)``."""
    return torch.tensor([[float(function(a, b)) for b in parts] for a in parts],
                        dtype=torch.float64)


def effective_rank(rows: Tensor) -> Tensor:
    """exp(entropy) of the singular values over their sum; 0 where all are 0."""
    singular = np.linalg.svd(rows.numpy(), compute_uv=False)
    if not singular.any():
        return number(0.)
    return number(math.exp(entropy([value / sum(singular) for value in singular])))


def ridge_error(rows: Tensor, ridge: float) -> Tensor:
    """Mean over rows of the squared error of the regression on all others / squared length."""
    rows = rows.numpy()
    penalty, errors = ridge * np.mean([row @ row for row in rows]), []
    for i, row in enumerate(rows):
        if not row.any():
            errors.append(0.)
            continue
        others = np.array([other for j, other in enumerate(rows) if j != i])
        normal = others @ others.T + penalty * np.eye(len(others))
        left = row - others.T @ np.linalg.solve(normal, others @ row)
        errors.append(left @ left / (row @ row))
    return number(np.mean(errors))


def same_token_cosine(first: Tensor, second: Tensor) -> float:
    """Mean over i of the cosine of row i of one layer and row i of another."""
    return float(mean([(unit(a) * unit(b)).sum() for a, b in zip(first, second, strict=True)]))


def unbiased_hsic(first: Tensor, second: Tensor) -> float:
    """The three sums of Song et al. over two Gram matrices without their diagonals."""
    num = len(first)
    k, m = (gram(rows, normalize=False).fill_diagonal_(0).tolist() for rows in (first, second))
    indices = range(num)
    trace = sum(k[i][j] * m[j][i] for i in indices for j in indices)
    sums = sum(sum(row) for row in k) * sum(sum(row) for row in m)
    chain = sum(k[i][j] * m[j][q] for i in indices for j in indices for q in indices)
    return (trace + sums / ((num - 1) * (num - 2)) - 2 * chain / (num - 2)) / (num * (num - 3))


def hsic_of_quadruples(first: Tensor, second: Tensor) -> float:
    """Mean of k_ij m_ij + k_ij m_qr - 2 k_ij m_iq over all four different indices i, j, q, r."""
    k, m = (gram(rows, normalize=False).tolist() for rows in (first, second))
    values = [k[i][j] * (m[i][j] + m[q][r] - 2 * m[i][q])
              for i, j, q, r in permutations(range(len(first)), 4)]
    return sum(values) / len(values)


def alignment(terms: Tensor) -> Tensor:
    """Each entry over the roots of the two of the diagonal that it belongs to, ``(L, L)``."""
    return torch.tensor([[float(terms[a, b]) / math.sqrt(float(terms[a, a]) * float(terms[b, b]))
                          for b in range(len(terms))] for a in range(len(terms))],
                        dtype=torch.float64)


def jensen_shannon(first: Tensor, second: Tensor) -> float:
    """Mean over the rows of two maps of H((p + q) / 2) - (H(p) + H(q)) / 2 in bits."""
    values = []
    for p, q in zip(first.tolist(), second.tolist()):
        middle = [(a + b) / 2 for a, b in zip(p, q)]
        values.append(entropy(middle, 2) - (entropy(p, 2) + entropy(q, 2)) / 2)
    return sum(values) / len(values)


def attention_entropy(maps: Tensor) -> Tensor:
    """Of each map, the mean entropy of its rows / log N, ``(H,)``."""
    return torch.stack([number(sum(entropy(row) for row in rows) / len(rows) / math.log(len(rows)))
                        for rows in maps.tolist()])


def mean_attention_distance(maps: Tensor, num_prefix: int, grid: tuple[int, int]) -> Tensor:
    """Of each map, the mean over patches of the distance to where they attend, ``(H,)``."""
    places = [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    result = []
    for rows in maps.tolist():
        distances = []
        for here, row in zip(places, rows[num_prefix:], strict=True):
            far = [math.dist(here, there) for there in places]
            seen = row[num_prefix:]
            distances.append(sum(a * d for a, d in zip(seen, far, strict=True)) / sum(seen))
        result.append(number(sum(distances) / len(distances)))
    return torch.stack(result)


def pca_energy(rows: Tensor) -> Tensor:
    """Shares of the squared singular values of the centred matrix, added up, ``(min(M, D),)``."""
    rows = rows.numpy()
    center = sum(rows) / len(rows)
    squares = np.linalg.svd(np.array([row - center for row in rows]), compute_uv=False)**2
    return torch.stack([number(sum(squares[:k + 1]) / sum(squares)) for k in range(len(squares))])


def stable_rank(rows: Tensor) -> Tensor:
    """Sum of the squared entries / largest squared singular value."""
    squares = sum(value**2 for row in rows.tolist() for value in row)
    return number(squares / np.linalg.svd(rows.numpy(), compute_uv=False)[0]**2)


def largest_cosine(rows: Tensor) -> Tensor:
    """Mean over rows of the largest absolute cosine with another."""
    units = directions(rows)
    return mean([max((a * b).sum().abs() for j, b in enumerate(units) if j != i)
                 for i, a in enumerate(units)])
