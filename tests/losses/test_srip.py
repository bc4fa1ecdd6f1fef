"""Spectral restricted isometry: both ends of the spectrum, the smaller Gram matrix, options."""
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import SRIPLoss
from mmdiverse.records import AttentionRecord, TokenRecord, WeightRecord
from mmdiverse.terms import build_loss
from tests.losses.cases import HEADS, SHARP_MAPS, TOKENS, TRIPOD, UNIFORM_MAPS


@pytest.mark.parametrize(('scale', 'expected'), [
    ([1, 1, 1], 0), ([2, 1, 1], 3), ([1.1, 1, .5], .75), ([1, 0, 1], 1)],
    ids=['orthonormal', 'stretched', 'shrunk', 'lost'])
def test_known_singular_values(scale: list[float], expected: float) -> None:
    value = SRIPLoss(normalize=False)(WeightRecord(torch.diag(torch.tensor(scale))[None].float()))
    torch.testing.assert_close(value, torch.tensor([float(expected)]))


def test_equal_directions() -> None:
    torch.testing.assert_close(SRIPLoss()(TokenRecord(torch.ones(1, 4, 9))), torch.tensor([3.]))


def test_more_vectors_than_dimensions_can_still_reach_zero() -> None:
    frame = math.sqrt(2 / 3) * TRIPOD
    value = SRIPLoss(normalize=False)(WeightRecord(frame))
    torch.testing.assert_close(value, torch.zeros(1), rtol=0, atol=1e-6)


def test_it_bounds_how_much_a_combination_is_stretched_or_shrunk() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 9, dtype=torch.float64) / 3
    combinations = torch.nn.functional.normalize(torch.randn(100, 4, dtype=x.dtype), dim=-1)
    stretch = (combinations @ x).square().sum(-1) - 1
    assert stretch.abs().max() <= SRIPLoss(normalize=False)(TokenRecord(x))


def test_length_does_not_matter_to_directions() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(SRIPLoss()(TokenRecord(3 * x)), SRIPLoss()(TokenRecord(x)))


def test_raw_maps_reward_uniform_ones_over_sharp_different_ones() -> None:
    uniform, sharp = (SRIPLoss(normalize=False)(AttentionRecord(maps=maps)).item()
                      for maps in (UNIFORM_MAPS, SHARP_MAPS))
    assert (uniform, sharp) == pytest.approx((HEADS - 1, TOKENS - 1))


def test_power_iteration_keeps_a_state_for_weights() -> None:
    loss = SRIPLoss(method='power')
    loss(WeightRecord(torch.eye(3, 5)[None]))
    assert {key: tuple(value.shape) for key, value in loss.state.items()} == {'3x5': (1, 2, 3)}


def test_exact_eigenvalues_keep_no_state() -> None:
    loss = SRIPLoss()
    loss(WeightRecord(torch.eye(3, 5)[None]))
    assert not loss.state


@pytest.mark.parametrize(('options', 'message'), [
    (dict(method='official'), r"`method` must be one of \['exact', 'power'\], but got 'official'"),
    (dict(steps=0), '`steps` must be at least 1, but got 0'),
])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss('SRIPLoss', **options)


def test_random_starts_come_from_its_generator() -> None:
    x: Tensor = torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(0))
    values = []
    for _ in range(2):
        loss = SRIPLoss(method='power')
        loss.generator = torch.Generator().manual_seed(3)
        values.append(loss(TokenRecord(x)))
    assert torch.equal(*values)
