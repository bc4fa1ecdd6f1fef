"""A coefficient that changes during training, by MMEngine's own parameter schedulers."""
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Union, get_args, get_origin

import torch
from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler import OneCycleParamScheduler, ReduceOnPlateauParamScheduler
from mmpretrain.registry import PARAM_SCHEDULERS
from torch.optim import SGD, Optimizer

from .spelling import did_you_mean
from .taps.base import is_sequence

#: Schedulers that cannot drive a weight, and why.
UNSUITED: dict[type[_ParamScheduler], str] = {
    OneCycleParamScheduler: 'works for a learning rate only',
    ReduceOnPlateauParamScheduler: 'needs a monitored metric',
}
#: Arguments of schedulers that are not for the config of a term.
RESERVED = ('optimizer', 'param_name', 'last_step', 'verbose')
#: A negative weight up to this share of the full one is the rounding of a 0, because MMEngine's
#: linear decay to 0 ends a few units in the last place above or below it.
ROUNDING = 1e-12


class WeightSchedule:
    """The weight of a term over a run, driven by MMEngine's parameter schedulers.

    Schedulers act as on a learning rate: those by iteration step after each iteration, those by
    epoch after each epoch, and several are applied in the order of the list. Nothing is saved in
    checkpoints: a resumed run replays the steps, which gives the same bits and costs about 2 s
    per scheduler in a million iterations; schedules by epoch replay epochs only.

    Args:
        weight (float): The full weight, which the schedulers start from.
        schedule (dict | Sequence[dict]): Config of one scheduler of MMEngine, or of several, as
            for ``param_scheduler``, but of the general kind, such as ``LinearParamScheduler``
            instead of ``LinearLR``, and without ``param_name``. ``end`` defaults to the end of
            the run.

    Raises:
        TypeError: If a value has a wrong type, or the scheduler has no such option.
        ValueError: If the scheduler does not exist, cannot drive a weight, ends before it starts,
            or its options do not work.

    Example:
        >>> schedule = WeightSchedule(0.5, [
        ...     dict(type='LinearParamScheduler', start_factor=0.1, end=5),
        ...     dict(type='MultiStepParamScheduler', milestones=[200], gamma=0.)])
        >>> schedule.reset(epoch_length=100)
        >>> schedule.value
        0.05
    """

    def __init__(self, weight: float, schedule: dict | Sequence[dict]) -> None:
        if not isinstance(schedule, dict) and not is_sequence(schedule):
            raise TypeError('`schedule` must be the config of a parameter scheduler or a list of '
                            f'them, but got {schedule!r}')
        if not schedule:
            raise ValueError(f'`schedule` must not be empty, but got {schedule!r}')
        configs = {'schedule': schedule} if isinstance(schedule, dict) else {
            f'schedule[{index}]': config for index, config in enumerate(schedule)}
        self._configs = {key: _check_config(key, config) for key, config in configs.items()}
        self._weight = float(weight)
        self._group: dict[str, Any] = {'weight': self._weight}
        self._by_epoch: dict[str, _ParamScheduler] = {}
        self._by_iter: dict[str, _ParamScheduler] = {}

    @property
    def value(self) -> float:
        """The current weight; the full one before :meth:`reset`."""
        return max(0., self._group['weight'])

    @property
    def by_epoch(self) -> bool:
        """Whether, after :meth:`reset`, some of it moves at the end of epochs alone."""
        return bool(self._by_epoch)

    def reset(self,
              epoch_length: int,
              epoch: int = 0,
              iteration: int = 0,
              max_epochs: int | None = None,
              max_iters: int | None = None) -> None:
        """Go to the start of a run, or to where it is resumed.

        Args:
            epoch_length (int): Iterations in an epoch.
            epoch (int): Epochs done. Defaults to 0.
            iteration (int): Iterations done in all epochs. Defaults to 0.
            max_epochs (int, optional): Epochs of the run, the default of ``end`` by epoch.
                Defaults to None, for no end.
            max_iters (int, optional): Iterations of the run, the default of ``end`` by iteration.
                Defaults to None, for no end.

        Raises:
            ValueError: If a schedule ends before it starts, or makes the weight negative or not
                finite up to here.
        """
        optimizer = _dummy_optimizer(self._weight)
        self._group = optimizer.param_groups[0]
        self._by_epoch, self._by_iter = {}, {}
        for key, (scheduler_type, options) in self._configs.items():
            end = max_epochs if options.get('by_epoch', True) else max_iters
            if end is not None:
                options = {'end': end, **options}
            _check_span(key, options)
            with _explained(key, scheduler_type, options):
                scheduler = _build(scheduler_type, options, optimizer, epoch_length)
            self._check_weight(key, scheduler)
            (self._by_epoch if scheduler.by_epoch else self._by_iter)[key] = scheduler
        optimizer.step()  # schedulers warn unless one comes before their first step

        if not self._by_iter:
            iteration = 0
        for done in range(epoch):
            for _ in range(min(epoch_length, iteration - done * epoch_length)):
                self.step_iter()
            self.step_epoch()
        for _ in range(iteration - epoch * epoch_length):
            self.step_iter()

    def step_iter(self) -> None:
        """Go on after an iteration.

        Raises:
            ValueError: If the weight becomes negative or not finite.
        """
        self._step(self._by_iter)

    def step_epoch(self) -> None:
        """Go on after an epoch, and after :meth:`step_iter` of its last iteration.

        Raises:
            ValueError: If the weight becomes negative or not finite.
        """
        self._step(self._by_epoch)

    def _step(self, schedulers: dict[str, _ParamScheduler]) -> None:
        for key, scheduler in schedulers.items():
            scheduler.step()
            self._check_weight(key, scheduler)

    def _check_weight(self, key: str, scheduler: _ParamScheduler) -> None:
        weight = self._group['weight']
        if not -ROUNDING * self._weight <= weight < math.inf:
            raise ValueError(
                f'`{key}` ({type(scheduler).__name__}) must keep the weight finite and not '
                f'negative, but makes it {weight} at {"epoch" if scheduler.by_epoch else "iter"} '
                f'{scheduler.begin + scheduler.last_step}')


def _check_config(key: str, config: Any) -> tuple[type[_ParamScheduler], dict[str, Any]]:
    """Check the config of one scheduler, and split it into type and options."""
    if not isinstance(config, dict):
        raise TypeError(f'`{key}` must be the config of a parameter scheduler, but got {config!r}')
    options = dict(config)
    scheduler = _find_scheduler(key, options.pop('type', None))
    for name in RESERVED:
        if name in options:
            raise ValueError(f'`{key}` must not give `{name}`, which the term sets itself, but got '
                             f'{options[name]!r}')
    _check_options(key, scheduler, options)
    _check_span(key, options)
    # Some options divide by zero, which would show only in the last step of a long run.
    trial = {'end': options.get('begin', 0) + 10, **options}
    with _explained(key, scheduler, options):
        built = _build(scheduler, trial, _dummy_optimizer(1.), epoch_length=1000)
        last_step = built.end - built.begin - 1
        for built.last_step in {0, min(1, last_step), last_step}:
            built._get_value()
    return scheduler, options


def _find_scheduler(key: str, name: Any) -> type[_ParamScheduler]:
    """The class of a name, or a class itself, where it can drive a weight."""
    found = name
    if isinstance(name, str) and name[:1].isidentifier():  # or the registry raises by itself
        found = PARAM_SCHEDULERS.get(name)
    if not (inspect.isclass(found) and issubclass(found, _ParamScheduler)):
        suited = sorted(name for name, scheduler in PARAM_SCHEDULERS.root.module_dict.items()
                        if _is_general(scheduler) and scheduler not in UNSUITED)
        raise ValueError(f'`{key}.type` must be one of {suited}, but got {name!r}'
                         f'{did_you_mean(name, suited)}')
    for unsuited, reason in UNSUITED.items():
        if issubclass(found, unsuited):
            raise ValueError(f'`{key}.type` must not be {name!r}, which {reason}')
    if not _is_general(found):
        twin = next(base.__name__ for base in found.__mro__ if _is_general(base))
        raise ValueError(f'`{key}.type` must be {twin!r}, but got {name!r}, which is for another '
                         'parameter than the weight of a term')
    return found


def _is_general(scheduler: type) -> bool:
    """Whether a scheduler can be told which parameter to drive."""
    return 'param_name' in inspect.signature(scheduler).parameters


def _check_options(key: str, scheduler: type[_ParamScheduler], options: dict[str, Any]) -> None:
    convert = options.get('convert_to_iter_based', False)
    if not isinstance(convert, bool):
        raise TypeError(f'`{key}.convert_to_iter_based` must be a bool, but got {convert!r}')
    own = {name: value for name, value in options.items() if name != 'convert_to_iter_based'}
    signature = inspect.signature(scheduler)
    try:
        signature.bind(None, 'weight', **own)
    except TypeError as error:  # which alone would not show what the options are
        names = [name for name in signature.parameters if name not in RESERVED]
        unknown = next((name for name in own if name not in names), None)
        raise TypeError(f'`{key}`: {scheduler.__name__} has the options {names}: {error}'
                        f'{did_you_mean(unknown, [*names, "convert_to_iter_based"])}') from error
    for name, value in own.items():
        parameter = signature.parameters.get(name)
        if convert and name in ('begin', 'end'):  # may be a part of an epoch
            parameter = parameter.replace(annotation=float)
        if parameter is not None and not _fits(value, parameter.annotation):
            raise TypeError(f'`{key}.{name}` of {scheduler.__name__} must fit `{parameter}`, but '
                            f'got {value!r}')
    if convert and not own.get('by_epoch', True):
        raise ValueError(f'`{key}.convert_to_iter_based` needs `by_epoch=True`, but got False')


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value has the type of an annotation, as far as that can be told."""
    if get_origin(annotation) is Union:
        return any(_fits(value, option) for option in get_args(annotation))
    if get_origin(annotation) in (list, Sequence):
        item, = get_args(annotation)
        return is_sequence(value) and all(_fits(entry, item) for entry in value)
    if annotation in (int, float):
        return (isinstance(value, (int, annotation)) and not isinstance(value, bool)
                and math.isfinite(value))
    return (annotation is inspect.Parameter.empty or not isinstance(annotation, type)
            or isinstance(value, annotation))


def _check_span(key: str, options: dict[str, Any]) -> None:
    begin, end = options.get('begin', 0), options.get('end', math.inf)
    if begin >= end:
        raise ValueError(f'`{key}` ends before it starts: `begin` must be less than `end`, which '
                         f'defaults to the end of the run, but got {begin} and {end}')


@contextmanager
def _explained(key: str, scheduler: type[_ParamScheduler], options: dict[str, Any]
               ) -> Iterator[None]:
    """Raise what goes wrong inside MMEngine as an error that names the config key."""
    message = f'`{key}`: {scheduler.__name__} cannot work with {options}: '
    try:
        yield
    except ZeroDivisionError as error:
        raise ValueError(f'{message}{error}; a step must not be 0, nor a factor after which the '
                         'weight grows') from error
    except (AssertionError, ArithmeticError, TypeError, ValueError) as error:
        # MMEngine asserts without a message that options exclude each other.
        reason = str(error) or 'they contradict each other, or one is missing'
        raise ValueError(message + reason) from error


def _build(scheduler: type[_ParamScheduler], options: dict[str, Any], optimizer: Optimizer,
           epoch_length: int) -> _ParamScheduler:
    options = dict(options)
    build = scheduler
    if options.pop('convert_to_iter_based', False):
        build = partial(scheduler.build_iter_from_epoch, epoch_length=epoch_length)
    return build(optimizer=optimizer, param_name='weight', **options)


def _dummy_optimizer(weight: float) -> Optimizer:
    """An optimizer of nothing, since schedulers only work on the parameters of one."""
    return SGD([dict(params=[torch.zeros(0)], weight=weight)], lr=0.)
