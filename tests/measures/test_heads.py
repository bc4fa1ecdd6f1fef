"""How heads attend: closed forms, and the same numbers from SciPy and scikit-learn."""
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import cdist, jensenshannon
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from mmdiverse.measures import (
    attention_entropy,
    head_cosine,
    head_jensen_shannon,
    head_output_cka_terms,
    linear_cka,
    mean_attention_distance,
)
from mmdiverse.records import AttentionRecord, HeadRecord


def record(maps: Tensor, grid: tuple[int, int] | None = None, num_prefix: int = 0
           ) -> AttentionRecord:
    made = AttentionRecord(maps=maps)
    made.num_prefix, made.grid = num_prefix, grid
    return made


def uniform(num: int, heads: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full((1, heads, num, num), 1 / num, dtype=dtype)


def one_hot(*targets: list[int]) -> Tensor:
    """Maps ``(1, H, N, N)``, for each head where each token attends."""
    return torch.nn.functional.one_hot(torch.tensor([targets]), len(targets[0])).double()


def random_maps(heads: int = 3, num: int = 8, sharpness: float = 2.) -> Tensor:
    return (sharpness * torch.randn(1, heads, num, num, dtype=torch.float64)).softmax(-1)


def both_kinds(heads: int, num: int) -> list[AttentionRecord]:
    """The same maps given, and to be made of queries and keys."""
    q, k = torch.randn(2, 1, heads, num, 4, dtype=torch.float64)
    maps = ((q * 0.5) @ k.mT).softmax(-1)
    return [AttentionRecord(maps=maps), AttentionRecord(q=q, k=k, scale=0.5)]


# Keys that are fewer or more than queries


def pooled(num_queries: int, num_keys: int) -> AttentionRecord:
    return record((2 * torch.randn(1, 3, num_queries, num_keys, dtype=torch.float64)).softmax(-1))


pooling = pytest.mark.parametrize(('num_queries', 'num_keys'), [(6, 3), (2, 8), (1, 4)])


@pooling
def test_entropy_to_pooled_keys_is_that_of_scipy(num_queries: int, num_keys: int) -> None:
    made = pooled(num_queries, num_keys)
    expected = scipy.stats.entropy(made.maps.numpy(), axis=-1, base=num_keys).mean(-1)
    np.testing.assert_allclose(attention_entropy(made).numpy(), expected)


@pooling
def test_divergence_to_pooled_keys_is_that_of_scipy(num_queries: int, num_keys: int) -> None:
    made = pooled(num_queries, num_keys)
    first, second = made.maps[0, :2].numpy()
    expected = (jensenshannon(first, second, base=2, axis=-1)**2).mean()
    assert head_jensen_shannon(made)[0, 0, 1].item() == pytest.approx(expected)


@pooling
def test_cosine_to_pooled_keys_is_that_of_sklearn(num_queries: int, num_keys: int) -> None:
    made = pooled(num_queries, num_keys)
    np.testing.assert_allclose(head_cosine(made)[0].numpy(),
                               cosine_similarity(made.vectors()[0].numpy()))


def test_entropy_to_a_single_key_is_not_defined() -> None:
    assert attention_entropy(pooled(4, 1)).isnan().all()


def test_distance_without_a_grid_is_not_defined() -> None:
    value = mean_attention_distance(pooled(6, 3))
    assert value.shape == (1, 3) and value.isnan().all()


# Uniform attention

def test_uniform_heads_have_cosine_one() -> None:
    torch.testing.assert_close(head_cosine(record(uniform(5))), torch.ones(1, 2, 2).double())


def test_uniform_heads_have_no_divergence() -> None:
    assert head_jensen_shannon(record(uniform(5))).abs().max().item() < 1e-12


@pytest.mark.parametrize('num', [2, 5, 196])
def test_uniform_attention_has_entropy_one(num: int) -> None:
    torch.testing.assert_close(attention_entropy(record(uniform(num))), torch.ones(1, 2).double())


@pytest.mark.parametrize(('grid', 'expected'), [
    ((1, 1), 0.), ((1, 2), 1 / 2), ((1, 3), 8 / 9), ((2, 2), (2 + math.sqrt(2)) / 4),
    ((3, 1), 8 / 9)])
def test_mean_distance_of_uniform_attention(grid: tuple[int, int], expected: float) -> None:
    value = mean_attention_distance(record(uniform(grid[0] * grid[1]), grid))
    torch.testing.assert_close(value, torch.full((1, 2), expected).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize('num_prefix', [0, 1, 3])
@pytest.mark.parametrize('grid', [(4, 4), (2, 5), (7, 7)])
def test_mean_distance_of_uniform_attention_is_that_between_patches(
        grid: tuple[int, int], num_prefix: int) -> None:
    places = np.argwhere(np.ones(grid))
    maps = uniform(len(places) + num_prefix)
    value = mean_attention_distance(record(maps, grid, num_prefix))
    np.testing.assert_allclose(value.numpy(), cdist(places, places).mean(), rtol=1e-12)


# Attention to one token

def test_one_hot_attention_has_no_entropy() -> None:
    assert attention_entropy(record(one_hot([1, 2, 0], [0, 0, 0]))).abs().max().item() < 1e-12


def test_heads_that_never_look_at_the_same_token_diverge_by_one_bit() -> None:
    value = head_jensen_shannon(record(one_hot([0, 1, 2], [1, 2, 0])))
    torch.testing.assert_close(value, 1 - torch.eye(2)[None].double())


def test_heads_that_never_look_at_the_same_token_have_cosine_zero() -> None:
    value = head_cosine(record(one_hot([0, 1, 2], [1, 2, 0])))
    torch.testing.assert_close(value, torch.eye(2)[None].double())


def test_disjoint_halves_diverge_by_one_bit() -> None:
    maps = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    maps[:, 0, :, :2] = maps[:, 1, :, 2:] = 1 / 2
    assert head_jensen_shannon(record(maps))[0, 0, 1].item() == pytest.approx(1, abs=1e-12)


def test_heads_that_agree_in_half_of_the_rows_diverge_by_half_a_bit() -> None:
    value = head_jensen_shannon(record(one_hot([0, 1, 2, 3], [0, 1, 3, 2])))
    assert value[0, 0, 1].item() == pytest.approx(1 / 2, abs=1e-12)


def test_divergence_of_one_and_half() -> None:
    # H(3/4, 1/4) - H(1/2, 1/2) / 2.
    maps = torch.tensor([[[[1., 0.]] * 2, [[.5, .5]] * 2]], dtype=torch.float64)
    expected = 2 - 0.75 * math.log2(3) - 0.5
    assert head_jensen_shannon(record(maps))[0, 0, 1].item() == pytest.approx(expected, abs=1e-12)


def test_distance_of_one_hot_attention_is_exact() -> None:
    # On a grid of 2 x 2: stay, swap rows, all to the first.
    maps = one_hot([0, 1, 2, 3], [2, 3, 0, 1], [0, 0, 0, 0])
    value = mean_attention_distance(record(maps, (2, 2)))
    expected = torch.tensor([[0., 1., (2 + math.sqrt(2)) / 4]], dtype=torch.float64)
    torch.testing.assert_close(value, expected)


def test_the_grid_is_row_by_row() -> None:
    # Of 2 rows of 3, token 3 is below token 0, not beside it.
    maps = one_hot([3, 4, 5, 0, 1, 2])
    assert mean_attention_distance(record(maps, (2, 3))).item() == pytest.approx(1, abs=1e-12)


def test_the_grid_of_three_rows_of_two() -> None:
    maps = one_hot([1, 0, 3, 2, 5, 4])
    assert mean_attention_distance(record(maps, (3, 2))).item() == pytest.approx(1, abs=1e-12)


def test_attention_of_and_to_prefix_tokens_has_no_distance() -> None:
    maps = random_maps(2, 6)
    patches = maps[..., 2:, 2:] / maps[..., 2:, 2:].sum(-1, keepdim=True)
    torch.testing.assert_close(mean_attention_distance(record(maps, (2, 2), 2)),
                               mean_attention_distance(record(patches, (2, 2))))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_patches_that_attend_to_prefix_tokens_alone_have_a_finite_distance(dtype: torch.dtype
                                                                           ) -> None:
    maps = one_hot([0, 0, 0, 0, 0]).to(dtype)
    assert bool(mean_attention_distance(record(maps, (2, 2), 1)).isfinite().all())


def test_storing_the_maps_does_not_change_a_distance() -> None:
    made = record(one_hot([0, 0, 0, 0, 0]), (2, 2), 1)
    torch.testing.assert_close(mean_attention_distance(made.stored()),
                               mean_attention_distance(made))


# Other packages

def test_cosines_agree_with_sklearn() -> None:
    maps = random_maps()
    np.testing.assert_allclose(head_cosine(record(maps))[0].numpy(),
                               cosine_similarity(maps[0].flatten(1).numpy()), rtol=0, atol=1e-12)


def test_divergences_agree_with_scipy() -> None:
    maps = random_maps()
    rows = maps[0].numpy()
    expected = [[(jensenshannon(a, b, base=2, axis=-1)**2).mean() for b in rows] for a in rows]
    np.testing.assert_allclose(head_jensen_shannon(record(maps))[0].numpy(), expected, rtol=0,
                               atol=1e-12)


def test_entropies_agree_with_scipy() -> None:
    maps = random_maps()
    expected = scipy.stats.entropy(maps[0].numpy(), axis=-1).mean(-1) / math.log(8)
    np.testing.assert_allclose(attention_entropy(record(maps))[0].numpy(), expected, rtol=0,
                               atol=1e-12)


def test_distances_agree_with_scipy() -> None:
    maps = random_maps()
    places = np.argwhere(np.ones((2, 4)))
    expected = (maps[0].numpy() * cdist(places, places)).sum(-1).mean(-1)
    np.testing.assert_allclose(mean_attention_distance(record(maps, (2, 4)))[0].numpy(), expected,
                               rtol=0, atol=1e-12)


# Records

@pytest.mark.parametrize('measure', [head_cosine, head_jensen_shannon, attention_entropy,
                                     mean_attention_distance])
def test_maps_may_be_made_of_queries_and_keys(measure: Callable) -> None:
    given, made = both_kinds(3, 9)
    given.grid = made.grid = (3, 3)
    torch.testing.assert_close(measure(made), measure(given))


@pytest.mark.parametrize('kind', [0, 1], ids=['given', 'made'])
@pytest.mark.parametrize('measure', [head_cosine, head_jensen_shannon, attention_entropy,
                                     mean_attention_distance])
def test_storing_the_maps_changes_nothing(measure: Callable, kind: int) -> None:
    made = both_kinds(3, 9)[kind]
    made.num_prefix, made.grid = 1, (2, 4)
    expected = measure(made)
    torch.testing.assert_close(measure(made.stored()), expected)


@pytest.mark.parametrize('measure', [head_cosine, head_jensen_shannon, attention_entropy,
                                     mean_attention_distance])
def test_maps_that_are_given_stay_as_they_are(measure: Callable) -> None:
    maps = one_hot([0, 1, 2, 3], [1, 2, 3, 0])
    before = maps.clone()
    measure(record(maps, (2, 2)).stored())
    assert torch.equal(maps, before)


@pytest.mark.parametrize('measure', [head_cosine, head_jensen_shannon])
def test_one_head_has_itself_alone(measure: Callable) -> None:
    expected = 1. if measure is head_cosine else 0.
    torch.testing.assert_close(measure(record(random_maps(1))),
                               torch.full((1, 1, 1), expected).double())


def test_divergence_of_nearly_equal_heads_is_not_negative_in_float32() -> None:
    maps = random_maps(1, 64).float().expand(1, 4, 64, 64) * (1 + 1e-7)
    assert head_jensen_shannon(record(maps)).min().item() >= 0


def test_entropy_of_attention_that_underflows_is_zero() -> None:
    scores = torch.eye(6)[None, None] * 1000
    assert attention_entropy(record(scores.softmax(-1))).item() == pytest.approx(0, abs=1e-6)


# Outputs of heads

def test_heads_whose_outputs_are_rotated_copies_are_aligned() -> None:
    head = torch.randn(2, 9, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    heads = torch.stack((head, -2 * head @ turn), dim=1)
    values = linear_cka(head_output_cka_terms(HeadRecord(heads)).mean(0))
    torch.testing.assert_close(values, torch.ones(2, 2).double())


def test_heads_of_independent_outputs_are_not_aligned() -> None:
    heads = torch.randn(800, 2, 10, 8, dtype=torch.float64)
    values = linear_cka(head_output_cka_terms(HeadRecord(heads)).mean(0))
    assert abs(values[0, 1].item()) < 0.03


def test_alignment_of_heads_of_three_tokens_is_not_defined() -> None:
    assert bool(head_output_cka_terms(HeadRecord(torch.randn(2, 3, 3, 4))).isnan().all())
