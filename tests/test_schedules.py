"""Schedules of a weight: hand formulas, MMEngine's own values, resuming, and every bad input."""
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim.scheduler import LinearParamScheduler
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmdiverse.schedules import WeightSchedule

WEIGHT = 0.3
EPOCHS, LENGTH = 6, 5
KINDS: dict[str, dict[str, Any]] = {
    'Constant': dict(factor=0.4),
    'CosineAnnealing': dict(eta_min=0.1),
    'CosineRestart': dict(periods=[2, 3], restart_weights=[1, 0.5], eta_min=0.1),
    'Exponential': dict(gamma=0.7),
    'Linear': dict(start_factor=0.2),
    'MultiStep': dict(milestones=[1, 3], gamma=0.3),
    'Poly': dict(power=0.9, eta_min=0.05),
    'Step': dict(step_size=2, gamma=0.5),
}
MODES: dict[str, dict[str, Any]] = {
    'epoch': dict(begin=1, end=5),
    'iteration': dict(by_epoch=False, begin=3, end=17),
    'converted': dict(convert_to_iter_based=True, begin=0.6, end=5),
    'epoch, to the end': dict(),
    'iteration, to the end': dict(by_epoch=False),
    'converted, to the end': dict(convert_to_iter_based=True),
}
MIXED = [('Linear', dict(start_factor=0.2, end=7, by_epoch=False)),
         ('MultiStep', dict(milestones=[2, 4], gamma=0.3)),
         ('CosineAnnealing', dict(begin=1, end=5, eta_min=0.07, convert_to_iter_based=True))]
SCHEDULES = {f'{kind}, {mode}': [(kind, {**KINDS[kind], **MODES[mode]})]
             for kind in KINDS for mode in MODES} | {'mixed': MIXED}


def configs(schedulers: list[tuple[str, dict[str, Any]]], suffix: str) -> list[dict[str, Any]]:
    """Configs of the general kind (suffix ``ParamScheduler``), or for a learning rate (``LR``)."""
    return [dict(type=kind + suffix, **options) for kind, options in schedulers]


def linear(**options: Any) -> dict[str, Any]:
    return dict(type='LinearParamScheduler', **options)


def start(schedule: WeightSchedule, epoch: int = 0, iteration: int = 0) -> None:
    schedule.reset(LENGTH, epoch, iteration, max_epochs=EPOCHS, max_iters=EPOCHS * LENGTH)


def run(schedule: WeightSchedule, epoch: int = 0, iteration: int = 0
        ) -> dict[tuple[int, int], float]:
    """The value in every iteration of a run from here on, by epochs and iterations done."""
    start(schedule, epoch, iteration)
    values = {}
    for now in range(iteration, EPOCHS * LENGTH):
        values[now // LENGTH, now] = schedule.value
        schedule.step_iter()
        if (now + 1) % LENGTH == 0:
            schedule.step_epoch()
    return values


def epochs(schedule: WeightSchedule) -> list[float]:
    """The value at the start of every epoch."""
    values = run(schedule)
    return [values[epoch, epoch * LENGTH] for epoch in range(EPOCHS)]


class Toy(BaseModel):
    """The smallest model to train."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> dict[str, torch.Tensor]:
        return dict(loss=self.linear(inputs).mean())


class Recorder(Hook):
    """Steps a schedule as a hook does, and records it beside the learning rate."""

    def __init__(self, schedule: WeightSchedule) -> None:
        self.schedule = schedule
        self.weights: list[float] = []
        self.rates: list[float] = []

    def before_train(self, runner: Runner) -> None:
        self.schedule.reset(len(runner.train_dataloader), runner.epoch, runner.iter,
                            runner.max_epochs, runner.max_iters)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.weights.append(self.schedule.value)
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        self.schedule.step_iter()

    def after_train_epoch(self, runner: Runner) -> None:
        self.schedule.step_epoch()


def train(schedulers: list[tuple[str, dict[str, Any]]], work_dir: Path, by_epoch: bool = True,
          **options: Any) -> Recorder:
    """Train on five samples for 30 iterations, both a learning rate and a weight scheduled."""
    recorder = Recorder(WeightSchedule(WEIGHT, configs(schedulers, 'ParamScheduler')))
    data = TensorDataset(torch.zeros(LENGTH, 1))
    # At the end of its data an iteration-based run would sleep for two seconds.
    sampler = None if by_epoch else InfiniteSampler(data)
    name = f'{work_dir.name}-{"resumed" if options else "whole"}'  # MMEngine wants it unique
    Runner(model=Toy(), work_dir=str(work_dir), experiment_name=name,
           train_dataloader=DataLoader(data, sampler=sampler),
           train_cfg=(dict(by_epoch=True, max_epochs=EPOCHS) if by_epoch else
                      dict(by_epoch=False, max_iters=EPOCHS * LENGTH)),
           optim_wrapper=dict(optimizer=dict(type='SGD', lr=WEIGHT)),
           param_scheduler=configs(schedulers, 'LR'), custom_hooks=[recorder], log_level='ERROR',
           **options).train()
    return recorder


def test_warm_up_by_epoch() -> None:
    values = epochs(WeightSchedule(WEIGHT, linear(start_factor=0.2, end=5)))
    expected = [WEIGHT * factor for factor in (0.2, 0.4, 0.6, 0.8, 1, 1)]
    assert values == pytest.approx(expected, rel=1e-12)


def test_warm_up_by_iteration() -> None:
    values = run(WeightSchedule(WEIGHT, linear(start_factor=0.1, end=10, by_epoch=False)))
    expected = [WEIGHT * min(0.1 + 0.9 * step / 9, 1) for step in range(EPOCHS * LENGTH)]
    assert list(values.values()) == pytest.approx(expected, rel=1e-12)


def test_an_epoch_is_one_value() -> None:
    values = run(WeightSchedule(WEIGHT, linear(start_factor=0.2, end=5)))
    for (epoch, _), value in values.items():
        assert value == values[epoch, epoch * LENGTH]


def test_decay_ends_with_the_run() -> None:
    values = epochs(WeightSchedule(WEIGHT, dict(type='CosineAnnealingParamScheduler')))
    expected = [WEIGHT * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2 for epoch in range(EPOCHS)]
    assert values == pytest.approx(expected, rel=1e-12)


def test_decay_without_a_known_end_never_ends() -> None:
    schedule = WeightSchedule(WEIGHT, dict(type='CosineAnnealingParamScheduler'))
    schedule.reset(LENGTH)
    schedule.step_epoch()
    assert schedule.value == pytest.approx(WEIGHT)


def test_stop_at_an_epoch() -> None:
    schedule = WeightSchedule(
        WEIGHT, dict(type='MultiStepParamScheduler', milestones=[4], gamma=0.))
    assert epochs(schedule) == [WEIGHT] * 4 + [0., 0.]


def test_stop_at_an_iteration() -> None:
    schedule = WeightSchedule(WEIGHT, dict(
        type='MultiStepParamScheduler', milestones=[13], gamma=0., by_epoch=False))
    assert list(run(schedule).values()) == [WEIGHT] * 13 + [0.] * 17


def test_schedulers_compose() -> None:
    schedule = WeightSchedule(WEIGHT, [
        linear(start_factor=0.5, end=2),
        dict(type='MultiStepParamScheduler', milestones=[3], gamma=0.1),
        dict(type='MultiStepParamScheduler', milestones=[25], gamma=0., by_epoch=False)])
    expected = [WEIGHT * factor for factor in (0.5, 1, 1, 0.1, 0.1, 0)]
    assert epochs(schedule) == pytest.approx(expected, rel=1e-12)


def test_schedulers_of_one_step_act_in_the_order_of_the_list() -> None:
    poly = dict(type='PolyParamScheduler', begin=1, end=3, eta_min=0.1)
    half = dict(type='MultiStepParamScheduler', milestones=[2], gamma=0.5)
    values = [epochs(WeightSchedule(1., schedule))[2] for schedule in ([poly, half], [half, poly])]
    assert values == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_values_are_those_of_a_learning_rate(name: str, by_epoch: bool, tmp_path: Path) -> None:
    recorder = train(SCHEDULES[name], tmp_path, by_epoch)
    assert len(recorder.weights) == EPOCHS * LENGTH
    assert recorder.weights == recorder.rates


def test_a_resumed_run_goes_on_with_the_same_values(tmp_path: Path) -> None:
    whole = train(MIXED, tmp_path)
    rest = train(MIXED, tmp_path, load_from=str(tmp_path / 'epoch_3.pth'), resume=True)
    assert rest.weights == rest.rates == whole.weights[3 * LENGTH:]


@pytest.mark.parametrize('name', SCHEDULES)
def test_resumed_equals_uninterrupted(name: str) -> None:
    schedule = WeightSchedule(WEIGHT, configs(SCHEDULES[name], 'ParamScheduler'))
    uninterrupted = run(schedule)
    assert len(set(uninterrupted.values())) > 1
    for epoch, iteration in uninterrupted:
        resumed = run(schedule, epoch, iteration)
        assert resumed == {key: uninterrupted[key] for key in resumed}


@pytest.mark.parametrize('iteration', [3, 8])
def test_epochs_and_iterations_done_may_disagree(iteration: int) -> None:
    """As where the data or the batch changed since the checkpoint."""
    schedule = WeightSchedule(1., [
        linear(start_factor=0.1, end=10, by_epoch=False),
        dict(type='MultiStepParamScheduler', milestones=[1, 4], gamma=0.5)])
    start(schedule, epoch=4, iteration=iteration)
    assert schedule.value == pytest.approx((0.1 + 0.9 * iteration / 9) / 4)


def test_resuming_by_epoch_replays_no_iterations() -> None:
    schedule = WeightSchedule(WEIGHT, linear(start_factor=0.2, end=5))
    schedule.reset(10 ** 12, epoch=3, iteration=3 * 10 ** 12)
    assert schedule.value == pytest.approx(0.8 * WEIGHT)


def test_a_schedule_starts_anew_with_every_run() -> None:
    schedule = WeightSchedule(WEIGHT, configs(MIXED, 'ParamScheduler'))
    assert run(schedule) == run(schedule)


def test_the_full_weight_before_a_run() -> None:
    assert WeightSchedule(WEIGHT, linear(start_factor=0.2)).value == WEIGHT


def test_decay_to_zero_by_rounding_is_not_negative() -> None:
    schedule = WeightSchedule(1., linear(start_factor=0.9, end_factor=0., end=5))
    start(schedule)
    for _ in range(EPOCHS):
        schedule.step_epoch()
    assert schedule._group['weight'] < 0  # or this does not test what it should
    assert schedule.value == 0


def test_nothing_is_warned_or_printed(capfd: pytest.CaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        run(WeightSchedule(WEIGHT, configs(MIXED, 'ParamScheduler')), 2, 2 * LENGTH)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('schedule', [
    ConfigDict(linear(start_factor=0.2, end=5)),
    (linear(start_factor=0.2, end=5),),
    dict(type=LinearParamScheduler, start_factor=0.2, end=5),
    dict(type='mmengine.LinearParamScheduler', start_factor=0.2, end=5),
])
def test_forms_of_a_config(schedule: Any) -> None:
    assert epochs(WeightSchedule(WEIGHT, schedule))[0] == pytest.approx(0.2 * WEIGHT)


def test_the_config_is_left_as_it_is() -> None:
    config = linear(start_factor=0.2, convert_to_iter_based=True)
    run(WeightSchedule(WEIGHT, config))
    assert config == linear(start_factor=0.2, convert_to_iter_based=True)


@pytest.mark.parametrize(('change', 'error', 'message'), [
    (dict(type=None), ValueError, r"\.type` must be one of .*'LinearParamScheduler'.*got None"),
    (dict(type=''), ValueError, r"\.type` must be one of .*got ''"),
    (dict(type='.x'), ValueError, r"\.type` must be one of .*got '.x'"),
    (dict(type='Linear'), ValueError, r"\.type` must be one of .*got 'Linear'"),
    (dict(type='torch.optim.SGD'), ValueError, r"\.type` must be one of .*got 'torch.optim.SGD'"),
    (dict(type=nn.Linear), ValueError, r'\.type` must be one of .*got <class'),
    (dict(type='LinearLR'), ValueError,
     r"\.type` must be 'LinearParamScheduler', but got 'LinearLR', which is for another param"),
    (dict(type='PolyMomentum'), ValueError, r"\.type` must be 'PolyParamScheduler', but got"),
    (dict(type='CosineAnnealingWeightDecay'), ValueError,
     r"\.type` must be 'CosineAnnealingParamScheduler', but got"),
    (dict(type='ReduceOnPlateauParamScheduler'), ValueError,
     r"\.type` must not be 'ReduceOnPlateauPar.*', which needs a monitored metric"),
    (dict(type='ReduceOnPlateauLR'), ValueError,
     r"\.type` must not be 'ReduceOnPlateauLR', which needs a monitored metric"),
    (dict(type='OneCycleLR'), ValueError,
     r"\.type` must not be 'OneCycleLR', which works for a learning rate only"),
    (dict(param_name='weight'), ValueError,
     "` must not give `param_name`, which the term sets itself, but got 'weight'"),
    (dict(optimizer=None), ValueError, '` must not give `optimizer`.* got None'),
    (dict(last_step=3), ValueError, '` must not give `last_step`.* got 3'),
    (dict(verbose=True), ValueError, '` must not give `verbose`.* got True'),
    (dict(type='ExponentialParamScheduler'), TypeError,
     r"`: ExponentialParamScheduler has the options \['gamma', 'begin', .*missing.*'gamma'"),
    (dict(factor=0.1), TypeError,
     r"`: LinearParamScheduler has the options \['start_factor', .*unexpected.*'factor'"),
    (dict(epoch_length=3), TypeError, "has the options .*unexpected.*'epoch_length'"),
    (dict(start_factor='0.1'), TypeError,
     r"\.start_factor` of Linear.* must fit `start_factor: float = .*`, but got '0.1'"),
    (dict(start_factor=math.nan), TypeError, r'\.start_factor` .*must fit .*got nan'),
    (dict(start_factor=True), TypeError, r'\.start_factor` .*must fit .*got True'),
    (dict(end=5.), TypeError, r'\.end` of Linear.* must fit `end: int = .*`, but got 5.0'),
    (dict(end=None), TypeError, r'\.end` of Linear.* must fit .*got None'),
    (dict(begin='1'), TypeError, r"\.begin` of Linear.* must fit .*got '1'"),
    (dict(by_epoch=1), TypeError, r'\.by_epoch` of Linear.* must fit .*got 1'),
    (dict(type='MultiStepParamScheduler', milestones=200), TypeError,
     r'\.milestones` of MultiStep.* must fit `milestones: List\[int\]`, but got 200'),
    (dict(type='MultiStepParamScheduler', milestones=[0.5], convert_to_iter_based=True),
     TypeError, r'\.milestones` of MultiStep.* must fit .*got \[0.5\]'),
    (dict(type='CosineAnnealingParamScheduler', T_max='all'), TypeError,
     r"\.T_max` of CosineAnnealing.* must fit .*got 'all'"),
    (dict(convert_to_iter_based=1), TypeError,
     r'\.convert_to_iter_based` must be a bool, but got 1'),
    (dict(convert_to_iter_based=True, by_epoch=False), ValueError,
     r'\.convert_to_iter_based` needs `by_epoch=True`, but got False'),
    (dict(begin=5, end=5), ValueError, '` ends before it starts: `begin` .* got 5 and 5'),
    (dict(begin=7, end=3), ValueError, '` ends before it starts: `begin` .* got 7 and 3'),
    (dict(start_factor=2.), ValueError, r"`: Linear.*'start_factor': 2.0.* between 0 and 1"),
    (dict(start_factor=0.), ValueError, r"`: Linear.*'start_factor': 0.0.* must not be 0"),
    (dict(start_factor=0., end=0.5, convert_to_iter_based=True), ValueError, 'must not be 0'),
    (dict(type='ConstantParamScheduler', factor=0.), ValueError, "'factor': 0.0.* must not be 0"),
    (dict(type='StepParamScheduler', step_size=0), ValueError, 'a step must not be 0'),
    (dict(type='CosineAnnealingParamScheduler', eta_min=0., eta_min_ratio=0.1), ValueError,
     '`: CosineAnnealing.*Either `eta_min` or `eta_min_ratio'),
    (dict(type='CosineRestartParamScheduler', periods=[5]), ValueError,
     r"`: CosineRestart.*\{'periods': \[5\]\}: they contradict each other, or one is"),
])
@pytest.mark.parametrize('several', [False, True])
def test_bad_configs(change: dict[str, Any], error: type, message: str, several: bool) -> None:
    config = linear(**change) if 'type' not in change else change
    schedule, key = ([linear(), config], r'schedule\[1\]') if several else (config, 'schedule')
    with pytest.raises(error, match=f'^`{key}.*{message}'):
        WeightSchedule(WEIGHT, schedule)


@pytest.mark.parametrize(('schedule', 'error', 'message'), [
    ('LinearParamScheduler', TypeError, "^`schedule` must be the config .*got 'LinearParam"),
    (None, TypeError, '^`schedule` must be the config .*got None'),
    (LinearParamScheduler, TypeError, '^`schedule` must be the config .*got <class'),
    ([], ValueError, r'^`schedule` must not be empty, but got \[\]'),
    ({}, ValueError, r'^`schedule` must not be empty, but got \{\}'),
    ([linear(), 'x'], TypeError, r"^`schedule\[1\]` must be the config of .*got 'x'"),
    ([linear(), {}], ValueError, r'^`schedule\[1\].type` must be one of .*got None'),
])
def test_what_is_no_config(schedule: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        WeightSchedule(WEIGHT, schedule)


@pytest.mark.parametrize('unit', [dict(), dict(by_epoch=False)])
def test_a_schedule_that_starts_after_the_run(unit: dict[str, bool]) -> None:
    schedule = WeightSchedule(WEIGHT, [linear(), linear(begin=40, **unit)])
    with pytest.raises(ValueError, match=r'`schedule\[1\]` ends before.* 40 and (6|30)'):
        start(schedule)


def test_a_schedule_of_less_than_an_iteration() -> None:
    schedule = WeightSchedule(WEIGHT, linear(end=0.1, convert_to_iter_based=True))
    with pytest.raises(ValueError, match='`schedule`: Linear.*end should be larger than begin'):
        start(schedule)


@pytest.mark.parametrize(('config', 'message'), [
    (dict(type='ExponentialParamScheduler', gamma=-1), r'makes it -0.3 at epoch 1'),
    (dict(type='StepParamScheduler', step_size=2, gamma=-1, begin=1, by_epoch=False),
     'makes it -0.3 at iter 3'),
    (dict(type='ExponentialParamScheduler', gamma=1e200), 'makes it inf at epoch 2'),
    (dict(type='CosineRestartParamScheduler', periods=[5], restart_weights=[-1], eta_min=0.),
     'makes it -0.3 at epoch 0'),
])
def test_a_weight_that_leaves_its_range(config: dict[str, Any], message: str) -> None:
    schedule = WeightSchedule(WEIGHT, [linear(start_factor=1., end=2), config])
    with pytest.raises(ValueError, match=rf'^`schedule\[1\]` \({config["type"]}\) .*{message}'):
        run(schedule)
