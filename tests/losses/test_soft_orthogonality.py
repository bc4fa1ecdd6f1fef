"""Soft orthogonality: closed-form values, its relation to the cosine, what raw maps reward."""
import math

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import CosineLoss, SoftOrthogonalityLoss, soft_orthogonality
from mmdiverse.records import AttentionRecord, TokenRecord
from tests.losses.cases import HEADS, SHARP_MAPS, TOKENS, TRIPOD, UNIFORM_MAPS


def draw(num: int, dim: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, num, dim, dtype=torch.float64)


@pytest.mark.parametrize(('vectors', 'expected'), [
    (torch.eye(3, 5), 0), (torch.ones(3, 5), 6), (TRIPOD[0], 6 / 4)],
    ids=['orthonormal', 'equal', '120 degrees'])
def test_known_values_of_directions(vectors: Tensor, expected: float) -> None:
    value = soft_orthogonality(TokenRecord(vectors[None]))
    torch.testing.assert_close(value, torch.tensor([float(expected)]))


@pytest.mark.parametrize(('num', 'dim'), [(5, 9), (9, 4)])
def test_of_directions_it_is_the_squared_cosine_of_all_pairs(num: int, dim: int) -> None:
    record = TokenRecord(draw(num, dim))
    torch.testing.assert_close(SoftOrthogonalityLoss()(record),
                               num * (num - 1) * CosineLoss()(record))


def test_the_smaller_gram_matrix_gives_the_same() -> None:
    x = draw(9, 4)
    expected = (x @ x.mT - torch.eye(9, dtype=x.dtype)).square().sum((-2, -1))
    torch.testing.assert_close(soft_orthogonality(TokenRecord(x), normalize=False), expected)


def test_more_vectors_than_dimensions_have_a_lowest_value_above_zero() -> None:
    # X^T X = I: it cannot come nearer.
    frame = math.sqrt(2 / 3) * TRIPOD
    torch.testing.assert_close(soft_orthogonality(TokenRecord(frame), normalize=False),
                               torch.tensor([1.]))


def test_vectors_as_they_are_must_have_unit_length() -> None:
    value = soft_orthogonality(TokenRecord(2 * torch.eye(4)[None]), normalize=False)
    torch.testing.assert_close(value, torch.tensor([4. * (4 - 1)**2]))


def test_raw_maps_reward_uniform_ones_over_sharp_different_ones() -> None:
    uniform, sharp = (SoftOrthogonalityLoss(normalize=False)(AttentionRecord(maps=maps)).item()
                      for maps in (UNIFORM_MAPS, SHARP_MAPS))
    assert (uniform, sharp) == pytest.approx((HEADS * (HEADS - 1), HEADS * (TOKENS - 1)**2))


def test_directions_of_maps_reward_different_ones() -> None:
    uniform, sharp = (SoftOrthogonalityLoss()(AttentionRecord(maps=maps)).item()
                      for maps in (UNIFORM_MAPS, SHARP_MAPS))
    assert (uniform, sharp) == pytest.approx((HEADS * (HEADS - 1), 0))
