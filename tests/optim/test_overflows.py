"""Overflows in a row: how many are waited for, and what is said then."""
import math

import pytest
import torch

from mmdiverse.optim import AutocastOptimWrapper
from mmdiverse.optim.overflows import LIMIT, Overflows, has_scaler


def build(optimizer: type = torch.optim.SGD, accumulative_counts: int = 1, dtype: str = 'float16',
          **options: object) -> AutocastOptimWrapper:
    parameter = torch.nn.Parameter(torch.ones(1))
    return AutocastOptimWrapper(optimizer=optimizer([parameter], lr=1e-3), dtype=dtype,
                                accumulative_counts=accumulative_counts, **options)


def iterate(wrapper: AutocastOptimWrapper, overflows: Overflows, count: int, factor: float = 1.,
            finite: bool = True) -> list[str | None]:
    """What is said after each of some iterations, whose gradient is ``factor``."""
    parameter, = wrapper.optimizer.param_groups[0]['params']
    said = []
    for _ in range(count):
        wrapper.update_params((factor * parameter).sum())
        said.append(overflows.update(finite))
    return said


@pytest.mark.parametrize(('dtype', 'loss_scale', 'scales'), [
    ('float16', 'dynamic', True), ('float16', 8., True), ('bfloat16', 'dynamic', False),
    ('float16', dict(enabled=False), False)])
def test_what_scales_its_loss(dtype: str, loss_scale: object, scales: bool) -> None:
    assert has_scaler(build(dtype=dtype, loss_scale=loss_scale)) == scales


@pytest.mark.parametrize('init_scale', [2.**16, 2.**40])
def test_a_dynamic_scale_may_start_as_high_as_it_likes(init_scale: float) -> None:
    wrapper = build(loss_scale=dict(init_scale=init_scale))
    overflows = Overflows(wrapper)
    steps = int(math.log2(init_scale))
    assert iterate(wrapper, overflows, steps, math.inf) == [None] * steps
    assert wrapper.loss_scaler.get_scale() == 1 and overflows.steps == steps
    assert iterate(wrapper, overflows, 1) == [None] and overflows.steps == 0


def test_a_dynamic_scale_below_1_is_the_end() -> None:
    wrapper = build()
    said = iterate(wrapper, Overflows(wrapper), 17, math.inf)
    assert said == [None] * 16 + ['the gradient overflows even at a loss scale of 0.5, below 1,']


def test_a_scale_below_1_that_works_is_none() -> None:
    wrapper = build(loss_scale=dict(init_scale=0.25))
    assert iterate(wrapper, Overflows(wrapper), 3) == [None] * 3


@pytest.mark.parametrize('optimizer', [
    torch.optim.SGD, lambda *args, **options: torch.optim.AdamW(*args, fused=True, **options)],
    ids=['SGD', 'fused AdamW'])
def test_a_constant_scale_is_given_up_where_every_step_overflows(optimizer: type) -> None:
    wrapper = build(optimizer, loss_scale=0.5)
    overflows = Overflows(wrapper)
    assert iterate(wrapper, overflows, LIMIT - 1, math.inf) == [None] * (LIMIT - 1)
    assert iterate(wrapper, overflows, 1) == [None] and overflows.steps == 0
    *before, last = iterate(wrapper, overflows, LIMIT, math.inf)
    assert before == [None] * (LIMIT - 1) and last == (
        f'the gradient overflows for {LIMIT} steps in a row at the constant '
        "`optim_wrapper.loss_scale` of 0.5 (lower it, or take 'dynamic'), the last")


def test_steps_are_those_of_accumulated_gradients() -> None:
    wrapper = build(accumulative_counts=3, loss_scale=8.)
    overflows = Overflows(wrapper)
    iterate(wrapper, overflows, 8, math.inf)
    assert overflows.steps == 2
    iterate(wrapper, overflows, 1, math.inf)
    iterate(wrapper, overflows, 2)
    assert overflows.steps == 3
    iterate(wrapper, overflows, 1)
    assert overflows.steps == 0


@pytest.mark.parametrize('loss_scale', [8., dict(init_scale=2.**60)])
def test_losses_that_are_not_finite_are_no_matter_of_the_scale(loss_scale: object) -> None:
    wrapper = build(loss_scale=loss_scale)
    overflows = Overflows(wrapper)
    iterate(wrapper, overflows, 5, math.nan, finite=False)
    assert overflows.losses == 5
    iterate(wrapper, overflows, 1)
    assert overflows.losses == 0
    *before, last = iterate(wrapper, overflows, LIMIT, math.nan, finite=False)
    assert before == [None] * (LIMIT - 1)
    assert last == f'the losses are not finite for {LIMIT} iterations in a row, the last'


def test_nothing_is_left_at_the_optimizer() -> None:
    wrapper = build()
    overflows = Overflows(wrapper)
    assert wrapper.optimizer._optimizer_step_pre_hooks
    overflows.close()
    assert not wrapper.optimizer._optimizer_step_pre_hooks
