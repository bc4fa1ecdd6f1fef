from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmdiverse.learning_rate import scaled_learning_rate
from tests.runs import digits_config


def config(**options: object) -> Config:
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=1024),
                      train_dataloader=dict(batch_size=128),
                      optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3))))
    cfg.merge_from_dict(options)
    return cfg


def test_rate_grows_with_the_images_of_a_step() -> None:
    rate = scaled_learning_rate(config(**{'optim_wrapper.accumulative_counts': 2}), processes=6)
    assert (rate.images, rate.base, rate.accumulated) == (2 * 6 * 128, 1024, 2)
    assert rate.configured == rate.actual == 1e-3
    assert rate.scaled == pytest.approx(1.5e-3) and not rate.fits


@pytest.mark.parametrize(('processes', 'accumulated', 'enable', 'fits'), [
    (8, 1, False, True), (4, 2, False, True), (4, 1, False, False), (4, 1, True, True),
    (4, 2, True, False),  # scaled by MMEngine, though it was right
])
def test_rate_fits_where_the_run_trains_with_the_scaled_one(
        processes: int, accumulated: int, enable: bool, fits: bool) -> None:
    cfg = config(**{'auto_scale_lr.enable': enable,
                    'optim_wrapper.accumulative_counts': accumulated})
    assert scaled_learning_rate(cfg, processes).fits is fits


@pytest.mark.parametrize(('accumulated', 'enable', 'options'), [
    (1, False, 'auto_scale_lr.base_batch_size=256'),
    (3, False, 'auto_scale_lr.base_batch_size=768'),
    (3, True, 'auto_scale_lr.base_batch_size=768 auto_scale_lr.enable=False')])
def test_a_rate_is_said_to_be_right_by_the_images_of_the_step(
        accumulated: int, enable: bool, options: str) -> None:
    cfg = config(**{'auto_scale_lr.enable': enable,
                    'optim_wrapper.accumulative_counts': accumulated})
    rate = scaled_learning_rate(cfg, processes=2)
    assert not rate.fits and rate.options_as_right == options
    for option in options.split():
        key, _, value = option.partition('=')
        cfg.merge_from_dict({key: False if value == 'False' else int(value)})
    rate = scaled_learning_rate(cfg, processes=2)
    assert rate.fits and rate.actual == 1e-3


@pytest.mark.parametrize(('key', 'value'), [
    ('auto_scale_lr.base_batch_size', '1024'), ('auto_scale_lr.base_batch_size', -8),
    ('optim_wrapper.optimizer.lr', '1e-3'), ('train_dataloader.batch_size', True)])
def test_what_is_no_number_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f'`{key}` must be a positive number, but got {value!r}'):
        scaled_learning_rate(config(**{key: value}), processes=1)


@pytest.mark.parametrize('key', ['auto_scale_lr', 'optim_wrapper', 'train_dataloader'])
def test_nothing_is_said_where_the_config_says_too_little(key: str) -> None:
    for nothing in (None, {}):
        cfg = config()
        cfg[key] = nothing
        assert scaled_learning_rate(cfg, processes=1) is None


@pytest.mark.parametrize('enable', [True, False])
def test_actual_rate_is_that_of_mmengine(enable: bool, tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_digits', tmp_path, **{
        'auto_scale_lr.enable': enable, 'optim_wrapper.accumulative_counts': 3})
    cfg.param_scheduler = []
    runner = Runner.from_cfg(cfg)
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    runner.scale_lr(wrapper, cfg.auto_scale_lr)
    rate, = {group['lr'] for group in wrapper.optimizer.param_groups}
    assert rate == pytest.approx(scaled_learning_rate(cfg, processes=1).actual)
