"""How alike layers are: closed forms, and both ways to the unbiased HSIC."""
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from mmdiverse.measures import cross_layer_cosine, linear_cka, linear_cka_terms
from mmdiverse.measures.layers import unbiased_hsic
from mmdiverse.records import TokenRecord
from tests import reference
from tests.measures.cases import assert_agrees


def tokens(batch: int = 1, num: int = 9, dim: int = 5) -> Tensor:
    return torch.randn(batch, num, dim, dtype=torch.float64)


def rotation(dim: int) -> Tensor:
    return torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64)).Q


def records(*layers: Tensor) -> list[TokenRecord]:
    return [TokenRecord(layer) for layer in layers]


def cosine(*layers: Tensor) -> float:
    """Of the first two layers, for the first image."""
    return cross_layer_cosine(records(*layers))[0, 0, 1].item()


def cka(*layers: Tensor) -> Tensor:
    """Of all layers, over all images."""
    return linear_cka(linear_cka_terms(records(*layers)).mean(0))


def test_a_layer_has_cosine_one_with_itself() -> None:
    values = cross_layer_cosine(records(tokens(), tokens()))
    torch.testing.assert_close(values.diagonal(dim1=1, dim2=2), torch.ones(1, 2).double())


@pytest.mark.parametrize('factor', [-3., 0., 2.])
def test_cosine_with_a_multiple_is_its_sign(factor: float) -> None:
    x = tokens()
    assert cosine(x, factor * x) == pytest.approx(np.sign(factor), abs=1e-12)


def test_cosine_of_orthogonal_layers_is_zero() -> None:
    x = torch.eye(6, dtype=torch.float64)[None]
    assert cosine(x[:, :3], x[:, 3:]) == 0


def test_only_the_same_token_counts_in_the_cosine_of_layers() -> None:
    x = torch.eye(4, dtype=torch.float64)[None]
    assert cosine(x, x[:, [0, 1, 3, 2]]) == pytest.approx(0.5, abs=1e-12)


def test_cosine_of_layers_agrees_with_sklearn() -> None:
    x, y = tokens(), tokens()
    expected = np.trace(cosine_similarity(x[0].numpy(), y[0].numpy())) / 9
    assert cosine(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('other', [(8, 5), (9, 4)])
def test_cosine_of_layers_of_different_shapes_is_not_defined(other: tuple[int, int]) -> None:
    values = cross_layer_cosine(records(tokens(), tokens(1, *other), tokens()))[0]
    assert values.isnan().tolist() == [[False, True, False], [True, False, True],
                                       [False, True, False]]


@pytest.mark.parametrize(('num', 'dims'), [(6, (2, 3)), (5, (4, 6)), (4, (3, 3)), (7, (1, 1))])
def test_hsic_agrees_with_the_mean_over_quadruples(num: int, dims: Sequence[int]) -> None:
    # The definition that the three sums come from.
    layers = [tokens(2, num, dim) + 1 for dim in dims]
    expected = torch.stack([reference.of_pairs(reference.hsic_of_quadruples, item)
                            for item in zip(*layers)])
    assert_agrees(unbiased_hsic(records(*layers)), expected)


@pytest.mark.parametrize('dims', [(3, 3), (2, 4, 1)])
def test_both_ways_to_hsic_agree(dims: Sequence[int]) -> None:
    layers = [tokens(2, 13, dim) + 1 for dim in dims]
    # Zeros change no inner product, but make more dimensions than tokens.
    padded = [torch.nn.functional.pad(layer, (0, 13)) for layer in layers]
    assert_agrees(unbiased_hsic(records(*padded)), unbiased_hsic(records(*layers)))


@pytest.mark.parametrize('dim', [3, 20])
def test_both_ways_to_hsic_agree_in_float32(dim: int) -> None:
    layers = [tokens(2, 13, dim).float() + 1 for _ in range(2)]
    expected = torch.stack([reference.of_pairs(reference.unbiased_hsic, item)
                            for item in zip(*[layer.double() for layer in layers])])
    assert_agrees(unbiased_hsic(records(*layers)), expected)


@pytest.mark.parametrize('dim', [3, 20])
def test_the_mean_of_the_tokens_does_not_matter_to_hsic(dim: int) -> None:
    layers = [tokens(2, 13, dim) for _ in range(2)]
    assert_agrees(unbiased_hsic(records(*(layer + 5 for layer in layers))),
                  unbiased_hsic(records(*layers)))


@pytest.mark.parametrize('num', [1, 2, 3])
def test_hsic_of_fewer_than_four_tokens_is_not_defined(num: int) -> None:
    assert bool(unbiased_hsic(records(tokens(2, num), tokens(2, num))).isnan().all())


@pytest.mark.parametrize('dim', [4, 30])
def test_alignment_with_a_rotated_scaled_and_moved_copy_is_one(dim: int) -> None:
    x = tokens(2, 12, dim)
    values = cka(x, -3 * x @ rotation(dim) + tokens(1, 1, dim))
    torch.testing.assert_close(values, torch.ones(2, 2).double(), rtol=0, atol=1e-12)


def test_alignment_with_a_copy_of_another_width_is_one() -> None:
    x = tokens(2, 12, 4)
    assert cka(x, x @ rotation(7)[:4])[0, 1].item() == pytest.approx(1, abs=1e-12)


def test_alignment_changes_with_the_lengths_of_axes() -> None:
    x = tokens(4, 30, 4)
    assert cka(x, x * torch.tensor([10., 1, 1, 1]).double())[0, 1].item() < 0.8


@pytest.mark.parametrize(('num', 'dim'), [(20, 4), (16, 32)])
def test_alignment_of_independent_tokens_is_near_zero(num: int, dim: int) -> None:
    # Without the correction of its bias it would be 0.2 and 0.7.
    assert abs(cka(tokens(800, num, dim), tokens(800, num, dim))[0, 1].item()) < 0.02


def test_hsic_has_no_bias() -> None:
    values = unbiased_hsic(records(tokens(800, 16, 32), tokens(800, 16, 32)))[:, 0, 1]
    assert scipy.stats.ttest_1samp(values.numpy(), 0).pvalue > 0.01


def test_alignment_is_that_of_mean_terms_not_a_mean_of_alignments() -> None:
    x, y = tokens(3), tokens(3)
    terms = linear_cka_terms(records(x, y))
    assert_agrees(linear_cka(terms.mean(0)), reference.alignment(terms.mean(0)))


def test_alignment_of_layers_of_different_numbers_of_tokens_is_not_defined() -> None:
    values = cka(tokens(), tokens(1, 8), tokens())
    assert values.isnan().tolist() == [[False, True, False], [True, False, True],
                                       [False, True, False]]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(('num', 'dim'), [(7, 5), (6, 9), (64, 8), (16, 48)])
def test_alignment_of_equal_tokens_is_not_defined(num: int, dim: int, dtype: torch.dtype) -> None:
    # No variance: what rounding leaves of it must not count.
    same = torch.randn(1, 1, dim, dtype=dtype).expand(1, num, dim)
    values = cka(same, torch.randn(1, num, dim, dtype=dtype))
    assert values.isnan().tolist() == [[True, True], [True, False]]


def test_tokens_that_have_much_in_common_are_aligned_as_well() -> None:
    # In float32, where the Gram matrix is mostly that of the mean.
    x = tokens(2, 16, 48)
    y = x + tokens(2, 16, 48)
    far = 20 * tokens(1, 1, 48)
    values = cka((x + far).float(), (y + far).float())[0, 1].item()
    assert values == pytest.approx(cka(x, y)[0, 1].item(), abs=1e-3)
