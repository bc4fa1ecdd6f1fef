"""Extreme eigenvalues: exact ones, power iteration, and the state it keeps for weights."""
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmdiverse.losses import ExtremeEigenvalues, exact_extremes, power_iteration
from mmdiverse.losses.extreme_eigenvalues import rayleigh_quotients
from mmdiverse.records import AttentionRecord, Record, TokenRecord, WeightRecord


def matrix(values: list[float], num: int = 4, dim: int = 6, batch: int = 2) -> Tensor:
    """Random matrices ``(B, M, D)`` whose Gram matrices have these eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(
        batch, size, len(values), generator=generator, dtype=torch.float64))[0]
        for size in (num, dim))
    return left * torch.tensor(values, dtype=torch.float64).sqrt() @ right.mT


def starts(size: int, batch: int = 2) -> Tensor:
    x = torch.randn(batch, 2, size, generator=torch.Generator().manual_seed(1),
                    dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1)


def extremes(eigenvalues: ExtremeEigenvalues, record: Record, seed: int = 0) -> Tensor:
    """Both eigenvalues of every item, ``(B, 2)``."""
    seen = []

    def keep(values: Tensor) -> Tensor:
        seen.append(values)
        return values[:, 0]

    eigenvalues.map(record, keep, False, torch.Generator().manual_seed(seed))
    return torch.cat(seen)


def expected(values: list[float], batch: int = 2) -> Tensor:
    return torch.tensor([[values[0], values[-1]]] * batch, dtype=torch.float64)


# Exact ones


def test_exact_extremes_are_largest_and_smallest() -> None:
    gram = torch.diag(torch.tensor([2., 5., 1., 3.]))[None]
    assert exact_extremes(gram).tolist() == [[5, 1]]


def test_exact_extremes_are_computed_in_float64() -> None:
    gram = matrix([1e4, 5., 1., 1e-2], 4, 4, 1).float()
    gram = gram @ gram.mT
    smallest = np.linalg.eigvalsh(gram[0].double().numpy())[0]
    torch.testing.assert_close(exact_extremes(gram)[0, 1].item(), smallest, rtol=1e-6, atol=0)


def test_exact_extremes_keep_the_type() -> None:
    assert exact_extremes(torch.eye(2)[None]).dtype == torch.float32


def test_equal_eigenvalues_have_a_finite_gradient() -> None:
    gram = torch.eye(4)[None].requires_grad_()
    exact_extremes(gram).sum().backward()
    assert gram.grad.isfinite().all()


@pytest.mark.parametrize(('num', 'dim'), [(4, 6), (6, 4)])
def test_eigenvalues_are_those_of_the_smaller_gram_matrix(num: int, dim: int) -> None:
    values = [9., 5., 2., 1.]
    actual = extremes(ExtremeEigenvalues(), TokenRecord(matrix(values, num, dim)))
    torch.testing.assert_close(actual, expected(values))


# Power iteration


def test_power_iteration_reaches_both_ends() -> None:
    values = [9., 5., 2., 1.]
    x = matrix(values)
    ends = power_iteration([x], starts(4), 200)
    torch.testing.assert_close(rayleigh_quotients([x], ends), expected(values))


def test_power_iteration_gives_unit_vectors() -> None:
    ends = power_iteration([matrix([9., 5., 2., 1.])], starts(4), 3)
    torch.testing.assert_close(ends.norm(dim=-1), torch.ones(2, 2, dtype=torch.float64))


def test_more_steps_come_nearer() -> None:
    x = matrix([9., 5., 2., 1.])
    largest, smallest = torch.stack([rayleigh_quotients([x], power_iteration([x], starts(4), steps))
                                     for steps in (1, 4, 16)]).unbind(-1)
    assert (largest.diff(dim=0) > 0).all() and (smallest.diff(dim=0) < 0).all()


@pytest.mark.parametrize('factor', [0, 3])
def test_of_a_multiple_of_the_identity_any_vector_will_do(factor: float) -> None:
    x = factor * torch.eye(4, dtype=torch.float64)[None]
    ends = power_iteration([x], starts(4, 1), 5)
    torch.testing.assert_close(rayleigh_quotients([x], ends),
                               torch.full((1, 2), factor**2, dtype=torch.float64))


def test_vectors_are_held_constant_in_the_gradient() -> None:
    x = matrix([9., 5., 2., 1.]).requires_grad_()
    assert not power_iteration([x], starts(4), 2).requires_grad


@pytest.mark.parametrize(('num', 'dim'), [(4, 6), (6, 4)])
def test_power_agrees_with_exact(num: int, dim: int) -> None:
    values = [9., 5., 2., 1.]
    actual = extremes(ExtremeEigenvalues('power', 200), TokenRecord(matrix(values, num, dim)))
    torch.testing.assert_close(actual, expected(values))


def test_gradient_at_the_ends_is_that_of_the_eigenvalues() -> None:
    gradients = []
    for eigenvalues in (ExtremeEigenvalues(), ExtremeEigenvalues('power', 300)):
        x = matrix([9., 5., 2., 1.]).requires_grad_()
        values = extremes(eigenvalues, TokenRecord(x))
        (values[:, 0] - 2 * values[:, 1]).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_heads_are_decomposed() -> None:
    torch.manual_seed(0)
    record = AttentionRecord(maps=torch.rand(2, 3, 4, 4).softmax(-1))
    power = ExtremeEigenvalues('power')
    assert torch.equal(extremes(power, record), extremes(ExtremeEigenvalues(), record))
    assert not power.state


@pytest.mark.parametrize('method', ['exact', 'power'])
@pytest.mark.parametrize('level', [TokenRecord, WeightRecord])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_not_finite_is_not_hidden(method: str, level: type, value: float) -> None:
    x = matrix([9., 5., 2., 1.])
    x[0, 1, 2] = value
    actual = extremes(ExtremeEigenvalues(method, 5), level(x))
    assert actual.isfinite().tolist() == [[False, False], [True, True]]


# State


def drifting(steps: int) -> list[WeightRecord]:
    """Weights that change by 1e-3 of their length with every step."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 12, generator=generator, dtype=torch.float64)
    records = []
    for _ in range(steps):
        records.append(WeightRecord(x))
        x = x + 1e-3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return records


def test_one_step_a_call_follows_weights_that_change_slowly() -> None:
    power, exact = ExtremeEigenvalues('power'), ExtremeEigenvalues()
    errors = []
    for record in drifting(400):
        found, true = extremes(power, record), extremes(exact, record)
        errors.append(((found - true) / true[:, :1]).abs().max())
    # The smallest eigenvalues are close to each other, so it takes a while to tell them apart.
    assert max(errors) < 0.03 and max(errors[-50:]) < 1e-4


def test_one_step_from_a_random_start_is_far_off() -> None:
    x = drifting(1)[0].vectors()
    exact = extremes(ExtremeEigenvalues(), TokenRecord(x))
    first = rayleigh_quotients([x], power_iteration([x], starts(8), 1))
    assert (first[:, 1] > 2 * exact[:, 1]).all()


def test_the_first_call_takes_more_steps() -> None:
    record = drifting(1)[0]
    power = ExtremeEigenvalues('power')
    extremes(power, record)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 2, 8, generator=generator, dtype=torch.float64)
    first = first / first.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(power.state['8x12'], power_iteration([record.vectors()], first, 31))


def test_later_calls_take_as_many_as_they_are_told() -> None:
    record = drifting(1)[0]
    power = ExtremeEigenvalues('power', 2)
    extremes(power, record)
    before = power.state['8x12'].clone()
    extremes(power, record)
    torch.testing.assert_close(power.state['8x12'], power_iteration([record.vectors()], before, 2))


def test_a_restored_state_goes_on_as_if_nothing_had_happened() -> None:
    *records, last = drifting(5)
    power = ExtremeEigenvalues('power')
    for record in records:
        extremes(power, record)
    restored = ExtremeEigenvalues('power')
    restored.state.update({key: value.clone() for key, value in power.state.items()})
    assert torch.equal(extremes(restored, last, seed=1), extremes(power, last, seed=2))
    assert torch.equal(restored.state['8x12'], power.state['8x12'])


def test_a_state_for_another_number_of_matrices_is_not_used() -> None:
    power = ExtremeEigenvalues('power')
    power.state['8x12'] = starts(8, 3)
    extremes(power, drifting(1)[0])
    assert power.state['8x12'].shape == (2, 2, 8)


def test_a_restored_state_takes_the_type_of_the_weights() -> None:
    power = ExtremeEigenvalues('power')
    power.state['8x12'] = starts(8)
    extremes(power, WeightRecord(drifting(1)[0].vectors().float()))
    assert power.state['8x12'].dtype == torch.float32


def test_matrices_of_two_shapes_have_a_state_each() -> None:
    power = ExtremeEigenvalues('power')
    extremes(power, WeightRecord(torch.randn(2, 3, 5)))
    extremes(power, WeightRecord(torch.randn(1, 5, 3)))
    assert {key: tuple(value.shape) for key, value in power.state.items()} == {
        '3x5': (2, 2, 3), '5x3': (1, 2, 3)}


def test_what_does_not_persist_has_no_state() -> None:
    power = ExtremeEigenvalues('power')
    extremes(power, TokenRecord(torch.randn(2, 3, 5)))
    assert not power.state


def test_what_does_not_persist_starts_anew() -> None:
    power, record = ExtremeEigenvalues('power'), TokenRecord(drifting(1)[0].vectors())
    first, second, again = (extremes(power, record, seed) for seed in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_a_process_changes_the_state_of_its_own_matrices_alone() -> None:
    record = drifting(1)[0]
    power = ExtremeEigenvalues('power')
    extremes(power, record)
    before = power.state['8x12'].clone()
    extremes(power, record.share(1, 2))
    changed = (power.state['8x12'] != before).flatten(1).any(-1)
    assert changed.tolist() == [False, True]


def test_starts_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    extremes(ExtremeEigenvalues('power'), drifting(1)[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(method='newton'), r"`method` must be one of \['exact', 'power'\], but got 'newton'"),
    (dict(steps=0), '`steps` must be at least 1, but got 0'),
])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtremeEigenvalues(**options)
