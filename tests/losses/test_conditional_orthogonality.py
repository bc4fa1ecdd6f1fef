"""Conditional orthogonality: exact spread, the authors' estimate and its hand-written gradient."""
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import (
    ConditionalOrthogonalityLoss,
    eigenvalue_spread,
    power_step_eigenvalue_spread,
)
from mmdiverse.losses.conditional_orthogonality import power_step_of_gram
from mmdiverse.records import AttentionRecord, TokenRecord, WeightRecord
from mmdiverse.terms import build_loss
from tests import reference


def draw(m: int, d: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, m, d, dtype=torch.float64), torch.rand(2, 2, m, dtype=torch.float64)


def official(**options: Any) -> ConditionalOrthogonalityLoss:
    return ConditionalOrthogonalityLoss(method='official', **options)


# The spread


def test_spread_is_the_squared_distance_of_the_extremes() -> None:
    assert eigenvalue_spread(torch.tensor([[9., 1.], [2., 2.]])).tolist() == [64, 0]


@pytest.mark.parametrize('method', ['exact', 'power'])
def test_spread_of_known_singular_values(method: str) -> None:
    x = torch.diag(torch.tensor([3., 2., 1.]))[None]
    loss = ConditionalOrthogonalityLoss(method, steps=100)
    torch.testing.assert_close(loss(WeightRecord(x)), torch.tensor([64.]))


@pytest.mark.parametrize('method', ['exact', 'power'])
def test_more_vectors_than_dimensions_have_a_zero_eigenvalue(method: str) -> None:
    x = torch.diag(torch.tensor([3., 2., 1.]))[None, [0, 1, 2, 2, 2]]
    loss = ConditionalOrthogonalityLoss(method, steps=100)
    torch.testing.assert_close(loss(WeightRecord(x)), torch.tensor([81.]))


@pytest.mark.parametrize('method', ['exact', 'power'])
def test_least_where_vectors_are_orthogonal_and_equally_long(method: str) -> None:
    x = 3 * torch.eye(4, 6)[None]
    value = ConditionalOrthogonalityLoss(method)(WeightRecord(x))
    torch.testing.assert_close(value, torch.zeros(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize('method', ['exact', 'power', 'official'])
def test_the_least_value_has_a_finite_gradient(method: str) -> None:
    x = torch.eye(4)[None].requires_grad_()
    ConditionalOrthogonalityLoss(method)(WeightRecord(x)).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('method', ['exact', 'power', 'official'])
def test_normalize_makes_length_irrelevant(method: str) -> None:
    x, _ = draw(4, 7)
    values = []
    for factor in (1, 3):
        loss = ConditionalOrthogonalityLoss(method, normalize=True)
        loss.generator = torch.Generator().manual_seed(0)
        values.append(loss(WeightRecord(factor * x)))
    torch.testing.assert_close(*values)


def test_power_keeps_its_state() -> None:
    loss, x = ConditionalOrthogonalityLoss('power'), draw(4, 7)[0]
    loss(WeightRecord(x))
    assert list(loss.state) == ['4x7']


@pytest.mark.parametrize('method', ['exact', 'power'])
def test_training_with_it_lowers_the_exact_spread(method: str) -> None:
    x = draw(6, 9)[0].requires_grad_()
    loss, exact = ConditionalOrthogonalityLoss(method), ConditionalOrthogonalityLoss()
    loss.generator = torch.Generator().manual_seed(0)
    before = exact(WeightRecord(x))
    for _ in range(200):
        gradient, = torch.autograd.grad(loss(WeightRecord(x)).sum(), x)
        with torch.no_grad():
            x -= 1e-4 * gradient
    assert (exact(WeightRecord(x)) < 0.25 * before).all()


# The authors' estimate


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


@pytest.mark.parametrize('eps', [0., 1e-2])
def test_power_step_of_the_gram_matrix_is_the_same(eps: float) -> None:
    x, starts = draw(4, 7)
    torch.testing.assert_close(power_step_of_gram(x @ x.mT, starts.transpose(0, 1), eps),
                               power_step_eigenvalue_spread(x, starts, eps))


def test_power_step_is_exact_for_collapsed_vectors() -> None:
    x, starts = torch.ones(2, 5, 3, dtype=torch.float64), draw(5, 3)[1]
    torch.testing.assert_close(power_step_eigenvalue_spread(x, starts),
                               ConditionalOrthogonalityLoss()(WeightRecord(x)))


def test_power_step_is_zero_at_the_optimum() -> None:
    x = 2 * torch.eye(4)[None]
    assert power_step_eigenvalue_spread(x, torch.rand(2, 1, 4)).tolist() == [0]


def test_power_step_does_not_hide_nan() -> None:
    x, starts = draw(4, 7)
    x[0, 0, 0] = float('nan')
    assert power_step_eigenvalue_spread(x, starts).isnan().tolist() == [True, False]


def test_power_step_is_well_below_the_true_value() -> None:
    torch.manual_seed(0)
    weights = 0.02 * torch.randn(36, 96, 96).clamp(-2, 2)
    estimate = official()(WeightRecord(weights)).mean()
    assert estimate < 0.5 * ConditionalOrthogonalityLoss()(WeightRecord(weights)).mean()


def test_power_step_on_several_tensors_equals_that_on_one() -> None:
    torch.manual_seed(0)
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
    torch.manual_seed(0)
    trained, frozen = torch.randn(2, 4, 6, requires_grad=True), torch.randn(1, 4, 6)
    power_step_eigenvalue_spread([trained, frozen], torch.rand(2, 3, 4)).sum().backward()
    assert trained.grad is not None and frozen.grad is None


def test_the_estimate_keeps_no_state() -> None:
    loss = official()
    loss(WeightRecord(draw(4, 7)[0]))
    assert not loss.state


# Its starts


def test_equal_generators_draw_equal_starts() -> None:
    loss, x = official(), draw(4, 7)[0]
    values = []
    for _ in range(2):
        loss.generator = torch.Generator().manual_seed(5)
        values.append(loss(WeightRecord(x)))
    assert torch.equal(*values)


def test_every_step_draws_starts_of_its_own() -> None:
    loss, x = official(), draw(4, 7)[0]
    loss.generator = torch.Generator().manual_seed(5)
    assert not torch.equal(loss(WeightRecord(x)), loss(WeightRecord(x)))


def test_a_generator_leaves_the_global_one_alone() -> None:
    loss = official()
    loss.generator = torch.Generator()
    before = torch.get_rng_state()
    loss(WeightRecord(torch.ones(1, 4, 4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_uniform_starts_lie_between_0_and_1() -> None:
    starts = official().draw_starts(WeightRecord(torch.empty(2, 500, 3)))
    assert starts.shape == (2, 2, 500) and starts.min() >= 0 and starts.max() < 1


def test_normal_starts_have_both_signs() -> None:
    starts = official(start='normal').draw_starts(WeightRecord(torch.empty(2, 500, 3)))
    assert starts.shape == (2, 2, 500) and starts.min() < 0


def test_a_process_draws_what_a_single_one_would_have_drawn() -> None:
    record = WeightRecord(torch.empty(5, 4, 3))
    drawn = []
    for part in (record, record.share(0, 2), record.share(1, 2)):
        loss = official()
        loss.generator = torch.Generator().manual_seed(0)
        drawn.append(loss.draw_starts(part))
    torch.testing.assert_close(torch.cat(drawn[1:], dim=1), drawn[0], rtol=0, atol=0)


def test_starts_of_heads_need_no_maps() -> None:
    q = torch.randn(2, 3, 5, 4)
    record = AttentionRecord(q=q, k=q, scale=0.5)
    assert official().draw_starts(record).shape == (2, 2, 3) and 'maps' not in vars(record)


def test_starts_have_the_type_of_the_vectors() -> None:
    assert official().draw_starts(TokenRecord(draw(4, 7)[0])).dtype == torch.float64


@pytest.mark.parametrize(('options', 'message'), [
    (dict(method='newton'), "`method` must be one of .*'official'.*got 'newton'"),
    (dict(start='zeros'), "`start` must be one of .*'normal'.*got 'zeros'"),
    (dict(eps=-1e-6), '`eps` must be finite and not negative, but got -1e-06'),
    (dict(eps=float('inf')), '`eps` must be finite and not negative, but got inf'),
    (dict(method='power', steps=0), '`steps` must be at least 1, but got 0'),
])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss('ConditionalOrthogonalityLoss', **options)
