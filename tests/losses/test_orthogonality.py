"""Conditional orthogonality: exact spread, power step and its hand-written gradient, starts."""
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import (
    ConditionalOrthogonalityLoss,
    eigenvalue_spread,
    power_step_eigenvalue_spread,
)
from mmdiverse.records import WeightRecord
from mmdiverse.terms import build_loss
from tests import reference


def draw(m: int, d: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, m, d, dtype=torch.float64), torch.rand(2, 2, m, dtype=torch.float64)


def test_spread_of_known_singular_values() -> None:
    x = torch.diag(torch.tensor([3., 2., 1.]))[None]
    torch.testing.assert_close(eigenvalue_spread(x), torch.tensor([64.]))


def test_spread_counts_the_zero_eigenvalues_of_more_vectors_than_dimensions() -> None:
    x, _ = draw(7, 3)
    expected = torch.stack([reference.eigenvalue_spread(rows) for rows in x])
    torch.testing.assert_close(eigenvalue_spread(x), expected)


def test_spread_of_equal_eigenvalues_has_a_finite_gradient() -> None:
    x = torch.eye(4)[None].requires_grad_()
    eigenvalue_spread(x).sum().backward()
    assert x.grad.isfinite().all()


def test_spread_is_computed_in_float64() -> None:
    # Nearly orthogonal: in float32 the difference of the eigenvalues would be mostly rounding.
    torch.manual_seed(0)
    x = torch.linalg.qr(torch.randn(8, 8))[0]
    x[0] *= 1 + 1e-5
    expected = reference.eigenvalue_spread(x.double())
    torch.testing.assert_close(eigenvalue_spread(x[None])[0], expected.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(('m', 'd'), [(4, 7), (7, 4)])
@pytest.mark.parametrize('eps', [0., 1e-2])
def test_power_step_gradient_equals_autograd_of_the_reference(m: int, d: int, eps: float) -> None:
    x, starts = draw(m, d)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    factor = torch.tensor([1., -3.], dtype=x.dtype)  # every item with a gradient of its own
    (factor * power_step_eigenvalue_spread(ours, starts, eps)).sum().backward()
    (factor * torch.stack([reference.power_step(rows, *starts[:, b], eps)
                           for b, rows in enumerate(theirs)])).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


def test_power_step_is_exact_for_collapsed_vectors() -> None:
    x, starts = torch.ones(2, 5, 3, dtype=torch.float64), draw(5, 3)[1]
    torch.testing.assert_close(power_step_eigenvalue_spread(x, starts), eigenvalue_spread(x))


def test_power_step_is_zero_at_the_optimum() -> None:
    x = 2 * torch.eye(4)[None]
    assert power_step_eigenvalue_spread(x, torch.rand(2, 1, 4)).tolist() == [0]


def test_power_step_does_not_hide_nan() -> None:
    x, starts = draw(4, 7)
    x[0, 0, 0] = float('nan')
    assert power_step_eigenvalue_spread(x, starts).isnan().tolist() == [True, False]


def test_normalize_makes_length_irrelevant() -> None:
    x, _ = draw(4, 7)
    loss = ConditionalOrthogonalityLoss(normalize=True)
    torch.testing.assert_close(loss(WeightRecord(3 * x)), loss(WeightRecord(x)))


def test_equal_generators_draw_equal_starts() -> None:
    loss, x = ConditionalOrthogonalityLoss(method='power'), draw(4, 7)[0]
    values = []
    for _ in range(2):
        loss.generator = torch.Generator().manual_seed(5)
        values.append(loss(WeightRecord(x)))
    assert torch.equal(*values)


def test_a_generator_leaves_the_global_one_alone() -> None:
    loss = ConditionalOrthogonalityLoss(method='power')
    loss.generator = torch.Generator()
    before = torch.get_rng_state()
    loss(WeightRecord(torch.ones(1, 4, 4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_uniform_starts_lie_between_0_and_1() -> None:
    starts = ConditionalOrthogonalityLoss(method='power').draw_starts(
        WeightRecord(torch.empty(2, 500, 3)))
    assert starts.shape == (2, 2, 500) and starts.min() >= 0 and starts.max() < 1


def test_normal_starts_have_both_signs() -> None:
    starts = ConditionalOrthogonalityLoss(start='normal').draw_starts(
        WeightRecord(torch.empty(2, 500, 3)))
    assert starts.shape == (2, 2, 500) and starts.min() < 0


@pytest.mark.parametrize(('options', 'message'), [
    (dict(method='newton'), "`method` must be one of .*'power'.*got 'newton'"),
    (dict(start='zeros'), "`start` must be one of .*'normal'.*got 'zeros'"),
    (dict(eps=-1e-6), '`eps` must be finite and not negative, but got -1e-06'),
])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss('ConditionalOrthogonalityLoss', **options)


def test_power_step_on_several_tensors_equals_that_on_one() -> None:
    x = torch.randn(5, 4, 6, dtype=torch.float64)
    starts = torch.rand(2, 5, 4, dtype=torch.float64)
    whole = x.clone().requires_grad_()
    parts = [part.clone().requires_grad_() for part in x.split([2, 3])]
    expected = power_step_eigenvalue_spread(whole, starts)
    actual = power_step_eigenvalue_spread(parts, starts)
    expected.square().sum().backward()
    actual.square().sum().backward()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)


def test_power_step_leaves_frozen_parts_alone() -> None:
    trained, frozen = torch.randn(2, 4, 6, requires_grad=True), torch.randn(1, 4, 6)
    power_step_eigenvalue_spread([trained, frozen], torch.rand(2, 3, 4)).sum().backward()
    assert trained.grad is not None and frozen.grad is None
