"""Every measure with its formula in plain loops, its bounds, and random records for it.

A measure that has no case here fails the catalogue (:mod:`tests.measures.test_catalogue`).
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiverse.measures import MEASURES, Measure
from mmdiverse.measures.tokens import RIDGE
from mmdiverse.records import AttentionRecord, HeadRecord, Record, TokenRecord, WeightRecord
from tests import reference

NUM_ITEMS, NUM_LAYERS = 3, 3


@dataclass(frozen=True)
class Case:
    """One measure.

    Attributes:
        reference: The same formula in plain loops, of one item: the tokens ``(M, D)`` of a layer,
            or a list of those of all layers; maps ``(H, N, N)``, the number of prefix tokens and
            the grid; outputs of heads ``(H, N, d)``; or a matrix ``(M, D)``.
        bounds: The range, given the shape of what is first in an item.
    """

    reference: Callable[..., Tensor]
    bounds: Callable[..., tuple[float, float]]


def between(low: float, high: float) -> Callable[..., tuple[float, float]]:
    return lambda *shape: (low, high)


def rank_bounds(num: int, dim: int) -> tuple[float, float]:
    return 1, min(num, dim)


def cosine_case(form: str, low: float = 0.) -> Case:
    return Case(lambda rows: reference.cosine(rows, form, False), between(low, 1))


#: Terms of an alignment are covariances, and have no bounds.
TERMS = between(-float('inf'), float('inf'))

CASES: dict[str, Case] = {
    'token_cosine_absolute': cosine_case('absolute'),
    'token_cosine_signed': cosine_case('signed', -1),
    'token_cosine_squared': cosine_case('squared'),
    'rank_collapse_residual': Case(lambda rows: 1 - reference.rank_collapse(rows), between(0, 1)),
    'effective_rank': Case(reference.effective_rank, rank_bounds),
    'ridge_error': Case(lambda rows: reference.ridge_error(rows, RIDGE), between(0, 1)),
    'cross_layer_cosine': Case(
        lambda layers: reference.of_pairs(reference.same_token_cosine, layers), between(-1, 1)),
    'linear_cka': Case(lambda layers: reference.of_pairs(reference.unbiased_hsic, layers), TERMS),
    'head_cosine': Case(
        lambda maps, *where: reference.gram(maps.flatten(1), normalize=True), between(0, 1)),
    'head_jensen_shannon': Case(
        lambda maps, *where: reference.of_pairs(reference.jensen_shannon, maps), between(0, 1)),
    'head_output_cka': Case(
        lambda heads: reference.of_pairs(reference.unbiased_hsic, heads), TERMS),
    'attention_entropy': Case(
        lambda maps, *where: reference.attention_entropy(maps), between(0, 1)),
    'mean_attention_distance': Case(
        reference.mean_attention_distance,
        lambda maps, num_prefix, grid: (0, ((grid[0] - 1)**2 + (grid[1] - 1)**2)**0.5)),
    'pca_energy': Case(reference.pca_energy, between(0, 1)),
    'stable_rank': Case(reference.stable_rank, rank_bounds),
    'eigenvalue_spread': Case(reference.eigenvalue_spread, between(0, float('inf'))),
    'neuron_cosine_mean': cosine_case('absolute'),
    'neuron_cosine_max': Case(reference.largest_cosine, between(0, 1)),
}

#: The arguments of a reference.
Item = tuple[Any, ...]


@dataclass
class Draw:
    """What a measure is tried on.

    Attributes:
        argument: A record, or those of all layers.
        items: Of each item of the batch what the reference takes, in float64.
        shape: Of the value of one item.
    """

    argument: Record | Sequence[Record]
    items: list[Item]
    shape: tuple[int, ...]


#: More and fewer vectors than dimensions, and as many; in the first, fewer dimensions of all
#: layers together than vectors.
MATRICES = [(13, 4), (9, 4), (6, 6), (5, 8)]
#: Heads, prefix tokens, grid; and whether the maps are made of queries and keys.
MAPS = [(heads, prefix, grid, fused) for heads, prefix, grid in
        [(2, 1, (3, 3)), (5, 0, (2, 4)), (1, 2, (2, 2))] for fused in (False, True)]
#: Heads, tokens, dimensions of a head: fewer dimensions of all heads than tokens, and more.
OUTPUTS = [(3, 7, 2), (4, 5, 3)]


def draw_tokens(num: int, dim: int, dtype: torch.dtype) -> Draw:
    tokens = torch.randn(NUM_ITEMS, num, dim, dtype=dtype) + 0.5
    return Draw(TokenRecord(tokens), [(rows.double(), ) for rows in tokens], ())


def draw_layers(num: int, dim: int, dtype: torch.dtype) -> Draw:
    layers = torch.randn(NUM_LAYERS, NUM_ITEMS, num, dim, dtype=dtype) + 0.5
    return Draw([TokenRecord(tokens, layer) for layer, tokens in enumerate(layers)],
                [(list(rows.double()), ) for rows in layers.unbind(1)], (NUM_LAYERS, NUM_LAYERS))


def draw_matrices(num: int, dim: int, dtype: torch.dtype) -> Draw:
    matrices = torch.randn(NUM_ITEMS, num, dim, dtype=dtype)
    return Draw(WeightRecord(matrices), [(rows.double(), ) for rows in matrices], ())


def draw_maps(heads: int, prefix: int, grid: tuple[int, int], fused: bool, dtype: torch.dtype
              ) -> Draw:
    q, k = torch.randn(2, NUM_ITEMS, heads, prefix + grid[0] * grid[1], 3, dtype=dtype)
    maps = torch.stack([torch.stack([reference.attention_maps(*pair, 0.7) for pair in zip(*item)])
                        for item in zip(q.double(), k.double())])
    if fused:
        record = AttentionRecord(q=q, k=k, scale=0.7)
    else:
        record = AttentionRecord(maps=maps.to(dtype))
        maps = maps.to(dtype).double()
    record.num_prefix, record.grid = prefix, grid
    return Draw(record, [(rows, prefix, grid) for rows in maps], (heads, ))


def draw_outputs(heads: int, tokens: int, dim: int, dtype: torch.dtype) -> Draw:
    outputs = torch.randn(NUM_ITEMS, heads, tokens, dim, dtype=dtype) + 0.5
    return Draw(HeadRecord(outputs), [(rows.double(), ) for rows in outputs], (heads, heads))


def sizes_of(measure: Measure) -> list[tuple]:
    """Sizes of the records that a measure is tried on."""
    return {'patch': MATRICES, 'weight': MATRICES, 'maps': MAPS, 'outputs': OUTPUTS}[
        measure.captured]


def draw(measure: Measure, sizes: tuple, dtype: torch.dtype = torch.float64) -> Draw:
    """A random batch of a measure."""
    function = {'patch': draw_tokens, 'weight': draw_matrices, 'maps': draw_maps,
                'outputs': draw_outputs}[measure.captured]
    if measure.axis == 'layer pair':
        function = draw_layers
    drawn = function(*sizes, dtype)
    if measure.axis == 'component':
        drawn.shape = (min(sizes), )
    if measure.axis == 'head pair':
        drawn.shape = (sizes[0], sizes[0])
    return drawn


def expected(name: str, items: Sequence[Item]) -> Tensor:
    """The reference of a measure, ``(B, ...)``."""
    return torch.stack([CASES[name].reference(*item) for item in items])


def bounds(name: str, item: Item) -> tuple[float, float]:
    """The range of a measure, of an item of these sizes."""
    first, *rest = item
    return CASES[name].bounds(*(first.shape if isinstance(first, Tensor) and not rest else item))


def assert_agrees(value: Tensor, wanted: Tensor) -> None:
    """Values agree to 1e-10, in float32 to 1e-5, of the largest of them or of 1."""
    precise = value.dtype == torch.float64
    scale = max(1., wanted.abs().max().item())
    torch.testing.assert_close(value.double() / scale, wanted / scale,
                               rtol=0, atol=1e-10 if precise else 1e-5)


#: Every measure with every size of record.
TRIALS = [(name, sizes) for name, measure in MEASURES.items() for sizes in sizes_of(measure)]
