"""Hyperspherical energy, separation and Gram determinant: known values, and their claims."""
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import (
    GramDeterminantLoss,
    HypersphericalEnergyLoss,
    HypersphericalSeparationLoss,
    hyperspherical_energy,
    negative_log_determinant,
    separation,
)
from mmdiverse.losses.base import off_diagonal
from mmdiverse.losses.hyperspherical import authors_separation, authors_squared_distances
from mmdiverse.records import AttentionRecord, Record, TokenRecord
from mmdiverse.terms import build_loss

EPS = 1e-4
TEMPERATURES = (0.01, 0.1, 1., 100.)


def on_circle(*degrees: float) -> Tensor:
    """Directions in the plane, ``(1, M, 2)``."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack((angles.cos(), angles.sin()), dim=-1)[None]


def cosines(x: Tensor) -> Tensor:
    return x @ x.mT


def distances(*pairs: float) -> Tensor:
    """A matrix of squared distances of three vectors, given 0-1, 0-2 and 1-2."""
    matrix = torch.zeros(3, 3)
    for (i, j), value in zip(((0, 1), (0, 2), (1, 2)), pairs):
        matrix[i, j] = matrix[j, i] = value
    return matrix[None]


def random_distances() -> Tensor:
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(3, 5, 4, dtype=torch.float64), dim=-1)
    return torch.cdist(x, x).square()


# Energy


@pytest.mark.parametrize(('power', 'expected'), [
    (0., -0.5 * math.log(2 + EPS)), (1., (2 + EPS)**-0.5), (2., 1 / (2 + EPS))])
def test_energy_of_a_right_angle(power: float, expected: float) -> None:
    value = hyperspherical_energy(cosines(on_circle(0, 90)), power)
    torch.testing.assert_close(value.item(), expected)


@pytest.mark.parametrize(('power', 'expected'), [
    (0., -0.5 * math.log(EPS)), (1., EPS**-0.5), (2., 1 / EPS)])
def test_equal_directions_have_the_highest_energy(power: float, expected: float) -> None:
    value = hyperspherical_energy(torch.ones(1, 4, 4, dtype=torch.float64), power)
    torch.testing.assert_close(value.item(), expected)


@pytest.mark.parametrize('power', [0., 1., 2.])
def test_directions_spread_evenly_have_the_least_energy(power: float) -> None:
    even, uneven = (hyperspherical_energy(cosines(on_circle(0, 120, last)), power)
                    for last in (240, 230))
    assert even < uneven


def test_the_half_space_treats_opposites_as_equals() -> None:
    x = on_circle(0, 0, 70)
    flipped = x * torch.tensor([1., -1., 1.], dtype=x.dtype)[:, None]
    torch.testing.assert_close(hyperspherical_energy(cosines(flipped), half_space=True),
                               hyperspherical_energy(cosines(x), half_space=True))


def test_without_half_space_opposites_have_the_least_energy() -> None:
    opposite, right = (hyperspherical_energy(cosines(on_circle(0, angle))) for angle in (180, 90))
    assert opposite < right


def test_in_the_half_space_right_angles_have_the_least_energy() -> None:
    opposite, right = (hyperspherical_energy(cosines(on_circle(0, angle)), half_space=True)
                       for angle in (180, 90))
    assert right < opposite


@pytest.mark.parametrize('loss', [
    HypersphericalEnergyLoss(), HypersphericalEnergyLoss(half_space=True),
    HypersphericalSeparationLoss(), HypersphericalSeparationLoss(temperature=0)])
def test_two_equal_directions_have_no_gradient_that_would_part_them(loss) -> None:
    x = on_circle(30, 30).requires_grad_()
    loss(TokenRecord(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=1e-9)


# Separation


def test_smallest_squared_distance_on_a_square() -> None:
    value = HypersphericalSeparationLoss(temperature=0)(TokenRecord(on_circle(0, 90, 180, 270)))
    torch.testing.assert_close(value.item(), -2.)


@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_smooth_minimum_lies_between_minimum_and_mean(temperature: float) -> None:
    squares = random_distances()
    pairs = off_diagonal(squares)
    smooth = separation(squares, temperature)
    assert (pairs.amin(-1) < smooth).all() and (smooth < pairs.mean(-1)).all()


def test_smooth_minimum_grows_with_the_temperature() -> None:
    values = torch.stack([separation(random_distances(), t) for t in (0, *TEMPERATURES)])
    assert (values.diff(dim=0) > 0).all()


def test_smooth_minimum_of_equal_distances_is_exact() -> None:
    squares = distances(1.5, 1.5, 1.5)
    torch.testing.assert_close(separation(squares, 0.1), separation(squares, 0))


@pytest.mark.parametrize(('temperature', 'moved'), [(0., 2), (0.1, 4)])
def test_only_the_smooth_minimum_moves_more_than_the_closest_pair(temperature: float, moved: int
                                                                  ) -> None:
    x = on_circle(0, 20, 100, 130).requires_grad_()
    HypersphericalSeparationLoss(temperature)(TokenRecord(x)).sum().backward()
    assert (x.grad.norm(dim=-1) > 1e-9).sum() == moved


def test_the_authors_leave_out_distances_of_exactly_zero() -> None:
    assert authors_separation(distances(0., 1.5, 2.)).tolist() == [1.5]


def test_the_authors_add_up_pairs_that_share_the_smallest_distance() -> None:
    assert authors_separation(distances(1.5, 1.5, 2.)).tolist() == [3]


def test_the_authors_have_zero_where_no_distance_is_above_it() -> None:
    assert authors_separation(distances(0., 0., 0.)).tolist() == [0]


def test_to_the_authors_duplicates_look_better_than_close_vectors() -> None:
    # In float32, where the added 1e-8 is lost and the distance of duplicates exactly 0.
    loss = HypersphericalSeparationLoss(official=True)
    duplicate, close = (loss(TokenRecord(on_circle(0, angle, 90).float())) for angle in (0, 20))
    assert duplicate < close


@pytest.mark.parametrize('temperature', [0., 0.1])
def test_to_ours_duplicates_look_worse_than_close_vectors(temperature: float) -> None:
    loss = HypersphericalSeparationLoss(temperature)
    duplicate, close = (loss(TokenRecord(on_circle(0, angle, 90))) for angle in (0, 20))
    assert duplicate > close


def test_directions_of_the_authors_are_a_little_shorter() -> None:
    # 1 - 1e-8 of the square each time: 2 - 2 cos of a vector with itself is no longer 0.
    value = authors_squared_distances(torch.ones(1, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(value.item(), 2e-8, rtol=1e-6, atol=0)


# Gram determinant


def test_determinant_of_a_right_angle() -> None:
    value = GramDeterminantLoss()(TokenRecord(on_circle(0, 90)))
    torch.testing.assert_close(value.item(), -math.log((1 + 1e-6)**2 - math.exp(-4)))


def test_bandwidth_and_jitter() -> None:
    value = GramDeterminantLoss(bandwidth=3, jitter=0.1)(TokenRecord(on_circle(0, 90)))
    torch.testing.assert_close(value.item(), -math.log(1.1**2 - math.exp(-12)))


def test_determinant_of_equal_directions() -> None:
    value = negative_log_determinant(torch.zeros(1, 4, 4, dtype=torch.float64), jitter=1e-3)
    torch.testing.assert_close(value.item(), -3 * math.log(1e-3) - math.log(4 + 1e-3))


@pytest.mark.parametrize('num', [3, 6])
def test_each_direction_that_repeats_another_costs_nearly_the_log_of_the_jitter(num: int) -> None:
    angles = [30 * index for index in range(num)]
    loss = GramDeterminantLoss(bandwidth=100)
    once, twice, thrice = (loss(TokenRecord(on_circle(*angles, *[0] * more))).item()
                           for more in (0, 1, 2))
    assert twice - once == pytest.approx(-math.log(1e-6) - math.log(2), rel=1e-3)
    assert thrice - twice == pytest.approx(-math.log(1e-6) - math.log(3 / 2), rel=1e-3)


def near_equal_tokens() -> Record:
    torch.manual_seed(0)
    return TokenRecord(torch.randn(2, 1, 384) + 1e-3 * torch.randn(2, 196, 384))


def near_equal_heads() -> Record:
    torch.manual_seed(0)
    q, k = (torch.randn(2, 1, 50, 16) + 1e-4 * torch.randn(2, 24, 50, 16) for _ in range(2))
    return AttentionRecord(q=q, k=k, scale=0.25)


@pytest.mark.parametrize('draw', [near_equal_tokens, near_equal_heads])
@pytest.mark.parametrize('official', [False, True])
def test_determinant_of_nearly_equal_vectors_is_exact_in_float32(draw, official: bool) -> None:
    loss = GramDeterminantLoss(official=official)
    value = loss(draw())
    exact = loss(TokenRecord(draw().vectors().double()))
    torch.testing.assert_close(value, exact.float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize('official', [False, True])
def test_determinant_of_nearly_equal_vectors_has_a_finite_gradient_in_float32(official: bool
                                                                              ) -> None:
    x = near_equal_tokens().vectors().requires_grad_()
    GramDeterminantLoss(official=official)(TokenRecord(x)).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(('type', 'options', 'message'), [
    ('HypersphericalEnergyLoss', dict(power=-1), '`power` must be finite and not negative.* -1'),
    ('HypersphericalEnergyLoss', dict(power=math.inf), '`power` must be finite .*got inf'),
    ('HypersphericalEnergyLoss', dict(eps=0), '`eps` must be finite and above 0, but got 0'),
    ('HypersphericalSeparationLoss', dict(temperature=-.1),
     '`temperature` must be finite and not negative, but got -0.1'),
    ('HypersphericalSeparationLoss', dict(temperature=math.nan), '`temperature` .*got nan'),
    ('GramDeterminantLoss', dict(bandwidth=0), '`bandwidth` must be finite and above 0.*got 0'),
    ('GramDeterminantLoss', dict(jitter=-1e-6), '`jitter` must be finite and above 0.*got -1e-06'),
    ('GramDeterminantLoss', dict(jitter=math.nan), '`jitter` must be finite .*got nan'),
])
def test_bad_options(type: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(type, **options)
