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
from collections import Counter
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

from .redundancy import measure_redundancy

#: One for each level; weights are the query, key and value matrices.
MEASURES = ('token_cosine_absolute', 'head_cosine', 'neuron_cosine_mean')
RESULT = 'result.json'


@dataclass(frozen=True)
class Run:
    """One of several trainings.

    Attributes:
        cfg (Config): Counts epochs, and validates after each.
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
        """Of the last epoch."""
        return self.folder / f'epoch_{self.max_epochs}.pth'


def training_run(cfg: Config, arm: str, seed: int, folder: Path, kind: str = 'training') -> Run:
    """A run of a classifier, whose result is that of
    :func:`~mmdiverse.evaluation.comparison.compare`."""
    return Run(cfg, arm, seed, folder, kind, digest_of(cfg), measure_classifier)


def run_all(runs: Sequence[Run]) -> list[dict[str, Any] | None]:
    """Train what has not been trained before, with the time left for all.

    Returns:
        list[dict | None]: The result of each run: ``arm``, ``seed``, ``config`` (its digest),
        ``seconds_per_epoch``, ``seconds`` (since it was resumed) and what it measures; after
        Ctrl-C, None for those that have not ended.

    Raises:
        ValueError: If a folder holds results of another config.
        OSError: If a folder cannot be written.
    """
    results = [load_result(run) for run in runs]
    progress = Progress(runs)
    try:
        for index, run in enumerate(runs):
            progress.label = f'[{index + 1}/{len(runs)}] {run}'
            if results[index] is None:
                results[index] = train(run, progress)
            else:
                progress.skip(run)
                print(f'{progress.label}: done before')
    except KeyboardInterrupt:
        print('\nInterrupted. Finished runs are kept; the same command goes on from here.')
    return results


class Progress(Hook):
    """Prints a line per epoch with the time left for all runs.

    Args:
        runs (Sequence[Run]): All of them.
        scope (str): What the time left is said of. Defaults to ``'in all'``.

    Attributes:
        label (str): In front of each line.
    """

    priority = 'VERY_LOW'

    def __init__(self, runs: Sequence[Run], scope: str = 'in all') -> None:
        self.scope = scope
        self.epochs_left: Counter[str] = Counter()
        for run in runs:
            self.epochs_left[run.kind] += run.max_epochs
        self.kind = self.label = ''
        self.epoch_seconds: list[float] = []
        self._all_seconds: dict[str, list[float]] = {kind: [] for kind in self.epochs_left}
        self._console = sys.stdout
        self._start = 0.

    def skip(self, run: Run) -> None:
        """Count a run as done that was done before."""
        self.epochs_left[run.kind] -= run.max_epochs

    def before_train(self, runner: Runner) -> None:
        self.epochs_left[self.kind] -= runner.epoch
        self.epoch_seconds = []

    def before_train_epoch(self, runner: Runner) -> None:
        self._start = time.perf_counter()

    def after_train_epoch(self, runner: Runner) -> None:
        self.epoch_seconds.append(time.perf_counter() - self._start)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.epochs_left[self.kind] -= 1
        self._all_seconds[self.kind].append(time.perf_counter() - self._start)
        scores = ', '.join(f'{name} {value:.2f}' for name, value in
                           scalar_metrics(metrics or {}).items()
                           if not name.endswith('time'))
        print(f'{self.label}: epoch {runner.epoch}/{runner.max_epochs}, {scores} '
              f'({self._time_left()} left {self.scope})', file=self._console, flush=True)

    def _time_left(self) -> str:
        known = {kind: statistics.fmean(seconds) for kind, seconds in self._all_seconds.items()
                 if seconds}
        left = int(sum(self.epochs_left[kind] * seconds for kind, seconds in known.items()))
        # Of a kind that is still to come nobody knows how long it takes.
        more = any(count > 0 and kind not in known for kind, count in self.epochs_left.items())
        return f'{"more than " if more else ""}{left // 60}:{left % 60:02d}'


def train(run: Run, progress: Progress) -> dict[str, Any]:
    """Train a run, or the rest of it, and measure it."""
    cfg = deepcopy(run.cfg)
    cfg.work_dir = str(run.folder)
    cfg.experiment_name = f'{run.kind}_{run.arm}_seed{run.seed}'
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=run.seed)
    # A run that ended without a result has lost its last validation: it starts again.
    cfg.resume = (run.folder / 'last_checkpoint').exists() and not run.checkpoint.exists()
    progress.kind = run.kind
    start = time.perf_counter()
    runner = quiet_runner(cfg)
    runner.register_hook(progress, priority='VERY_LOW')
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
    """Accuracy, losses and redundancy of a classifier after its training."""
    redundancy = measure_redundancy(runner.model, runner.val_dataloader, MEASURES)
    scalars = runner.message_hub.log_scalars
    metric = next(name for name in scalars
                  if name.startswith('val/') and not name.endswith('time'))
    accuracy = [float(value) for value in scalars[metric].data[0]]
    # With terms, MMEngine's `loss` is the total and the hook logs the head's part apart.
    loss = scalars['train/loss_cls' if 'train/loss_cls' in scalars else 'train/loss'].data[0]
    steps = len(loss) // runner.max_epochs
    return dict(
        metric=metric.removeprefix('val/'), accuracy=accuracy[-1], accuracy_per_epoch=accuracy,
        loss_per_epoch=[float(loss[i:i + steps].mean()) for i in range(0, len(loss), steps)],
        **redundancy)


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
        ValueError: If the folder holds a run of another config.
        OSError: If the folder cannot be written.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    marker = run.folder / 'config.sha256'
    if marker.exists() and marker.read_text() != run.digest:
        raise ValueError(f'{run.folder} holds a run of another config; choose another --work-dir, '
                         'or delete the folder')
    marker.write_text(run.digest)
    path = run.folder / RESULT
    return json.loads(path.read_text()) if path.exists() else None


def digest_of(cfg: Config) -> str:
    """What tells a config from others."""
    return hashlib.sha256(json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode()
                          ).hexdigest()
