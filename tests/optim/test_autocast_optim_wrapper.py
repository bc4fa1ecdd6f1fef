"""Mixed precision on any device; that gradients are right is in tests/robustness/test_modes.py."""
from pathlib import Path

import pytest
import torch
from mmengine.device import get_device
from mmengine.runner import Runner
from mmpretrain.registry import OPTIM_WRAPPERS as HOST_OPTIM_WRAPPERS

from mmdiverse.optim import AutocastOptimWrapper
from tests.runs import digits_config, same_state, train


def build(**options) -> AutocastOptimWrapper:
    parameter = torch.nn.Parameter(torch.ones(1))
    return AutocastOptimWrapper(optimizer=torch.optim.SGD([parameter], lr=1.), **options)


def step(wrapper: AutocastOptimWrapper, loss_factor: float = 1.) -> torch.Tensor:
    parameter, = wrapper.optimizer.param_groups[0]['params']
    wrapper.update_params((loss_factor * parameter).sum())
    return parameter.detach()


def test_it_is_found_by_its_name_in_a_config_of_mmpretrain() -> None:
    assert HOST_OPTIM_WRAPPERS.get('mmdiverse.AutocastOptimWrapper') is AutocastOptimWrapper


@pytest.mark.parametrize(('dtype', 'scaled'), [('bfloat16', False), (torch.bfloat16, False),
                                               ('float16', True), (torch.float16, True)])
def test_the_loss_is_scaled_in_float16_alone(dtype: str | torch.dtype, scaled: bool) -> None:
    assert build(dtype=dtype).loss_scaler.is_enabled() == scaled


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_forward_passes_are_in_its_precision(dtype: str) -> None:
    layer = torch.nn.Linear(2, 2)
    wrapper = build(dtype=dtype)
    with wrapper.optim_context(layer.to(get_device())):
        assert layer(torch.ones(1, 2, device=get_device())).dtype == getattr(torch, dtype)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_step_is_that_of_the_optimizer(dtype: str) -> None:
    assert step(build(dtype=dtype)) == 0


def test_a_step_that_overflows_is_left_out_and_lowers_the_scale() -> None:
    wrapper = build(dtype='float16')
    scale = wrapper.loss_scaler.get_scale()
    assert step(wrapper, float('inf')) == 1
    assert wrapper.loss_scaler.get_scale() == scale / 2


def test_a_constant_scale_stays() -> None:
    wrapper = build(dtype='float16', loss_scale=16)
    step(wrapper)
    step(wrapper, float('inf'))
    assert wrapper.loss_scaler.get_scale() == 16


def test_options_of_the_scaler_are_taken() -> None:
    assert build(dtype='float16', loss_scale=dict(init_scale=8.)).loss_scaler.get_scale() == 8


@pytest.mark.parametrize('dtype', ['float32', 'half', torch.float64, None])
def test_other_types_are_refused(dtype: object) -> None:
    with pytest.raises(ValueError, match='`dtype` must be one of .*bfloat16.*float16'):
        build(dtype=dtype)


@pytest.mark.parametrize('loss_scale', ['static', None, True, [1.]])
def test_other_scales_are_refused(loss_scale: object) -> None:
    with pytest.raises(TypeError, match="`loss_scale` must be 'dynamic', a number or a dict"):
        build(dtype='float16', loss_scale=loss_scale)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_resumed_run_equals_the_uninterrupted_one(dtype: str, tmp_path: Path) -> None:
    def config(name: str, epochs: int, **options):
        cfg = digits_config('vit-nano_diverse_digits', tmp_path / name, epochs=epochs, **options)
        cfg.optim_wrapper.update(type='mmdiverse.AutocastOptimWrapper', dtype=dtype)
        cfg.param_scheduler = []
        cfg.custom_hooks = [dict(type='mmdiverse.EpochSeedHook'), *cfg.custom_hooks]
        return cfg

    whole = train(config('whole', 2))
    train(config('parts', 1))
    cfg = config('parts', 2, resume=True)
    cfg.experiment_name = f'resumed-{dtype}'
    resumed = Runner.from_cfg(cfg)
    resumed.train()
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())
    assert whole.optim_wrapper.loss_scaler.state_dict() == \
        resumed.optim_wrapper.loss_scaler.state_dict()
