"""Trainings of a comparison: run one after another, resumed, measured at their end."""
import contextlib
import hashlib
import io
import json
import logging
import math
import numbers
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.fileio import put_text
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .interruption import explain_interruption, interruptible
from .redundancy import measure_redundancy

#: One for each level; weights are the query, key and value matrices.
MEASURES = ('token_cosine_absolute', 'head_cosine', 'neuron_cosine_mean')
RESULT, CURVES = 'result.json', 'curves.json'

#: Values by epoch, counted from 1.
Curve = dict[int, float]


@dataclass(frozen=True)
class Run:
    """One of several trainings.

    Attributes:
        cfg (Config): What :func:`check_epochs` accepts.
        arm (str): What is compared.
        seed (int): Of the run.
        folder (Path): Its work dir.
        kind (str): Runs of one kind take about as long; also what is said of them.
        digest (str): Of all that its result hangs on.
        measure (Callable): From the runner after training to its part of the result.
    """

    cfg: Config
    arm: str
    seed: int
    folder: Path
    kind: str
    digest: str
    measure: Callable[[Runner], dict[str, Any]]

    def __str__(self) -> str:
        kind = '' if self.kind == 'training' else f', {self.kind}'
        return f'{self.arm}, seed {self.seed}{kind}'

    @property
    def max_epochs(self) -> int:
        return self.cfg.train_cfg.max_epochs

    @property
    def checkpoint(self) -> Path:
        """Of the last epoch; a run that stops early has none."""
        return self.folder / f'epoch_{self.max_epochs}.pth'


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override settings of a config in place, as ``--cfg-options`` does.

    Args:
        cfg (Config): What to change.
        options (Mapping[str, Any]): Values by key, such as ``train_cfg.max_epochs``.

    Raises:
        ValueError: If a key leads nowhere.
    """
    for key, value in options.items():
        try:
            cfg.merge_from_dict({key: deepcopy(value)})  # which takes `_delete_` out of a value
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f'the option {key}={value!r} does not fit the config: {error}'
                             ) from error


def check_epochs(cfg: Config, of: str = '') -> None:
    """Check that a config counts epochs, and validates at least the last of them.

    Args:
        cfg (Config): Of a run.
        of (str): Which it is, such as ``' of the segmentation'``. Defaults to ``''``.

    Raises:
        ValueError: If it does not.
    """
    loop = cfg.get('train_cfg')
    if not isinstance(loop, dict) or 'max_epochs' not in loop or 'max_iters' in loop or \
            not loop.get('by_epoch', True):
        raise ValueError(f'epochs are counted: `train_cfg`{of} must hold `max_epochs`, and neither '
                         '`max_iters` nor `by_epoch=False`, but got '
                         f'{dict(loop) if isinstance(loop, dict) else loop!r}')
    for key in ('max_epochs', 'val_interval'):
        if not _is_count(loop.get(key, 1)):
            raise ValueError(f'`train_cfg.{key}`{of} must be a whole number of at least 1, but got '
                             f'{loop[key]!r}')
    if loop.get('val_begin', 1) > loop.max_epochs:
        raise ValueError(f'`train_cfg.val_begin`{of} must be at most `max_epochs`, '
                         f'{loop.max_epochs}, for a validation after the last epoch, but got '
                         f'{loop.val_begin}')
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        if cfg.get(key) is None:
            raise ValueError(f'every run is validated after its last epoch: `{key}`{of} must be '
                             'given')


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def training_run(cfg: Config, arm: str, seed: int, folder: Path, kind: str = 'training') -> Run:
    """A run of a classifier, whose result is that of
    :func:`~mmdiverse.evaluation.comparison.compare`."""
    return Run(cfg, arm, seed, folder, kind, digest_of(cfg), measure_classifier)


def run_all(runs: Sequence[Run]) -> list[dict[str, Any] | None]:
    """Train what has not been trained before, with the time left for all.

    Returns:
        list[dict | None]: The result of each run: ``arm``, ``seed``, ``config`` (its digest),
        ``seconds_per_epoch``, ``seconds`` (since it was resumed) and what it measures; after
        Ctrl-C or SIGTERM, None for those that have not ended.

    Raises:
        ValueError: If a folder holds results of another config.
        OSError: If a folder cannot be written.
    """
    results = [load_result(run) for run in runs]
    progress = Progress(runs)
    try:
        with interruptible():
            for index, run in enumerate(runs):
                progress.label = f'[{index + 1}/{len(runs)}] {run}'
                if results[index] is None:
                    results[index] = train(run, progress)
                else:
                    progress.skip(run)
                    print(f'{progress.label}: done before')
    except KeyboardInterrupt as interruption:
        print(f'\n{explain_interruption(interruption)}')
    return results


class Progress(Hook):
    """Prints a line per epoch with the time left for all runs.

    Args:
        runs (Sequence[Run]): All of them.
        scope (str): What the time left is said of. Defaults to ``'in all'``.

    Attributes:
        label (str): In front of each line.
        kind (str): Of the run that is being trained.
        epoch_seconds (list[float]): What each of its epochs took, without validation.
    """

    priority = 'VERY_LOW'

    def __init__(self, runs: Sequence[Run], scope: str = 'in all') -> None:
        self.scope = scope
        self.epochs_left: Counter[str] = Counter()
        for run in runs:
            self.epochs_left[run.kind] += run.max_epochs
        self.kind = self.label = ''
        self.epoch_seconds: list[float] = []
        self._seconds: dict[str, float] = defaultdict(float)  # validation included
        self._epochs: Counter[str] = Counter()
        self._has_news = False
        self._console = sys.stdout
        self._start = self._counted = 0.

    def skip(self, run: Run) -> None:
        """Count a run as done that was done before."""
        self.epochs_left[run.kind] -= run.max_epochs

    def before_train(self, runner: Runner) -> None:
        self.epochs_left[self.kind] -= runner.epoch
        self.epoch_seconds = []

    def before_train_epoch(self, runner: Runner) -> None:
        if self._has_news:  # of an epoch that was not validated
            self._print_line(runner)
        self._start = self._counted = time.perf_counter()

    def after_train_epoch(self, runner: Runner) -> None:
        self._count_seconds()
        self.epoch_seconds.append(self._counted - self._start)
        self._epochs[self.kind] += 1
        self.epochs_left[self.kind] -= 1
        self._has_news = True

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._count_seconds()
        self._print_line(runner, [f'{name} {value:.2f}' for name, value
                                  in scalar_metrics(metrics or {}).items()])

    def after_train(self, runner: Runner) -> None:
        if self._has_news:
            self._print_line(runner)
        if runner.epoch < runner.max_epochs:
            self.epochs_left[self.kind] -= runner.max_epochs - runner.epoch
            print(f'{self.label}: ended early, after epoch {runner.epoch}', file=self._console,
                  flush=True)

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self._seconds[self.kind] += now - self._counted
        self._counted = now

    def _print_line(self, runner: Runner, scores: Sequence[str] = ()) -> None:
        self._has_news = False
        epoch = ', '.join([f'epoch {runner.epoch}/{runner.max_epochs}', *scores])
        print(f'{self.label}: {epoch} ({self._time_left()} left {self.scope})', file=self._console,
              flush=True)

    def _time_left(self) -> str:
        left = int(sum(self.epochs_left[kind] * self._seconds[kind] / count
                       for kind, count in self._epochs.items()))
        # Of a kind that is still to come nobody knows how long it takes.
        more = any(count > 0 and kind not in self._epochs
                   for kind, count in self.epochs_left.items())
        return f'{"more than " if more else ""}{left // 60}:{left % 60:02d}'


class Curves(Hook):
    """Keeps the training losses of every epoch, and the metrics of every validation.

    They are written to a file after each. A checkpoint would not do: it is saved before its epoch
    is validated, so that a run which goes on from there has lost that validation.

    Args:
        path (Path): The file. What it holds of epochs that a run resumes after is kept.

    Attributes:
        losses (dict[str, dict[int, float]]): For each loss that the model logs, the mean over the
            iterations of each epoch.
        metrics (dict[str, dict[int, float]]): For each metric that is a single number, the value of
            each epoch that was validated.
        ended (bool): Whether the training has come to its end, be it an early one.

    Raises:
        ValueError: If a validation gives metrics, but none that is a single number.
    """

    priority = 'VERY_LOW'  # when the losses and metrics are complete

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: dict[str, Curve] = {}
        self.metrics: dict[str, Curve] = {}
        self.ended = False
        self._of_epoch: dict[str, list[float]] = defaultdict(list)
        if path.exists():
            kept = json.loads(path.read_text())
            self.ended = kept['ended']
            self.losses, self.metrics = (_with_numbers(kept[key]) for key in ('losses', 'metrics'))

    @property
    def last_epoch(self) -> int:
        """The last epoch that was trained; 0 before the first has ended."""
        return max((epoch for curve in self.losses.values() for epoch in curve), default=0)

    def before_train(self, runner: Runner) -> None:
        """Forget epochs that will be trained again."""
        self.ended = False
        for curves in (self.losses, self.metrics):
            for name, curve in [*curves.items()]:
                curves[name] = {epoch: value for epoch, value in curve.items()
                                if epoch <= runner.epoch}
                if not curves[name]:
                    del curves[name]

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin an epoch."""
        self._of_epoch.clear()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                         outputs: dict | None = None) -> None:
        """Note the losses of an iteration; MMEngine calls losses all that has this in its name."""
        for name, value in scalar_metrics(outputs or {}).items():
            if 'loss' in name:
                self._of_epoch[name].append(value)

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep the means of the epoch."""
        for name, values in self._of_epoch.items():
            # MMEngine counts an epoch after this.
            self.losses.setdefault(name, {})[runner.epoch + 1] = statistics.fmean(values)
        self._write()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keep the metrics of the epoch."""
        scalars = scalar_metrics(metrics or {})
        if metrics and not scalars:
            raise ValueError(f'of the metrics {sorted(metrics)} none is a single number: add one '
                             "that is to `val_evaluator`, such as dict(type='Accuracy')")
        for name, value in scalars.items():
            self.metrics.setdefault(name, {})[runner.epoch] = value
        self._write()

    def after_train(self, runner: Runner) -> None:
        """Note that this is the end."""
        self.ended = True
        self._write()

    def _write(self) -> None:
        kept = dict(ended=self.ended, losses=self.losses, metrics=self.metrics)
        put_text(json.dumps(kept) + '\n', self.path)


def _with_numbers(curves: dict[str, dict[str, float]]) -> dict[str, Curve]:
    # JSON makes text of keys.
    return {name: {int(epoch): value for epoch, value in curve.items()}
            for name, curve in curves.items()}


def train(run: Run, progress: Progress) -> dict[str, Any]:
    """Train a run, or the rest of it, and measure it."""
    cfg = deepcopy(run.cfg)
    cfg.work_dir = str(run.folder)
    cfg.experiment_name = f'{run.kind}_{run.arm}_seed{run.seed}'
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=run.seed)
    curves = Curves(run.folder / CURVES)
    # A run that ended without a result may have lost its last validation: it starts again.
    ended = curves.ended or curves.last_epoch >= run.max_epochs or run.checkpoint.exists()
    cfg.resume = (run.folder / 'last_checkpoint').exists() and not ended
    progress.kind = run.kind
    start = time.perf_counter()
    runner = quiet_runner(cfg)
    for hook in (curves, progress):
        runner.register_hook(hook)
    # COCO's own evaluation prints its every step.
    with contextlib.redirect_stdout(io.StringIO()):
        runner.train()
        measured = run.measure(runner)
    result = dict(arm=run.arm, seed=run.seed, config=run.digest, **measured,
                  seconds_per_epoch=statistics.median(progress.epoch_seconds),
                  seconds=time.perf_counter() - start)
    put_text(json.dumps(result, indent=2) + '\n', run.folder / RESULT)
    return result


def measure_classifier(runner: Runner) -> dict[str, Any]:
    """Accuracy, losses and redundancy of a classifier after its training.

    Raises:
        ValueError: If its validation gave no metric that is a single number.
    """
    curves = next(hook for hook in runner.hooks if isinstance(hook, Curves))
    if not curves.metrics:
        raise ValueError('the validation gave no metric: `val_evaluator` must hold one that is a '
                         "single number, such as dict(type='Accuracy')")
    metric, accuracy = next(iter(curves.metrics.items()))
    # With terms, MMEngine's `loss` is the total and the hook logs the head's part apart.
    loss = curves.losses['loss_cls' if 'loss_cls' in curves.losses else 'loss']
    return dict(
        metric=metric, accuracy=[*accuracy.values()][-1],
        accuracy_epochs=[*accuracy], accuracy_per_epoch=[*accuracy.values()],
        loss_epochs=[*loss], loss_per_epoch=[*loss.values()],
        **measure_redundancy(runner.model, runner.val_dataloader, MEASURES))


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a validation that are single numbers, as MMEngine tells them apart.

    Those of every class, such as of ``SingleLabelMetric(average=None)``, and matrices are left out.

    Args:
        metrics (Mapping[str, Any]): What an evaluator returns.

    Returns:
        dict[str, float]: By name, in order; a truth value is 0 or 1, and NaN stays. An array or a
        tensor counts if it has one entry.
    """
    scalars = {}
    for name, value in metrics.items():
        if isinstance(value, (np.ndarray, torch.Tensor)) and math.prod(value.shape) == 1:
            value = value.item()
        if isinstance(value, (numbers.Real, np.bool_)):
            scalars[name] = float(value)
    return scalars


def quiet_runner(cfg: Config) -> Runner:
    """Build a runner whose log goes to its file, and whose errors alone go to the console."""
    with contextlib.redirect_stdout(io.StringIO()):
        runner = Runner.from_cfg(cfg)
    for handler in runner.logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setStream(sys.stderr)
            # The hosts warn of their own deprecated calls; those stay in the file.
            handler.setLevel(logging.ERROR)
    return runner


def load_result(run: Run) -> dict[str, Any] | None:
    """The result of a run, if it has ended; makes its folder, and marks it with the config.

    Raises:
        ValueError: If the folder holds a run of another config, its result cannot be read, or it
            is one of an earlier version that does not say enough.
        OSError: If the folder cannot be written.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    marker, path = run.folder / 'config.sha256', run.folder / RESULT
    if not marker.exists():
        put_text(run.digest, marker)
    elif marker.read_text() != run.digest:
        raise ValueError(f'{run.folder} holds a run of another config; choose another --work-dir, '
                         'or delete the folder')
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} cannot be read ({error}); delete the folder, and the run is made '
                         'again') from None
    accuracy = result.get('accuracy_per_epoch')
    if accuracy and 'accuracy_epochs' not in result and len(accuracy) != run.max_epochs:
        raise ValueError(f'{path} is of an earlier version, and of its {len(accuracy)} accuracies '
                         f'in {run.max_epochs} epochs nobody knows the epochs; delete the folder, '
                         'and the run is made again')
    return result


def epochs_of(result: Mapping[str, Any], curve: str) -> list[int]:
    """The epochs after which the values of a curve were found.

    Args:
        result (Mapping[str, Any]): Of a run of a classifier. Those of earlier versions do not say;
            they have a value for each epoch, or :func:`load_result` refuses them.
        curve (str): ``'accuracy'`` or ``'loss'``.
    """
    return result.get(f'{curve}_epochs') or [*range(1, len(result[f'{curve}_per_epoch']) + 1)]


def digest_of(cfg: Config) -> str:
    """What tells a config from others."""
    return hashlib.sha256(json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode()
                          ).hexdigest()
