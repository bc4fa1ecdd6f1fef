"""Training of a diversified model beside its plain twin."""
import contextlib
import hashlib
import io
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..config import is_diversified, plain_twin
from .redundancy import measure_redundancy

ARMS = ('plain', 'diverse')
#: One for each level; weights are the query, key and value matrices.
MEASURES = ('token_cosine_absolute', 'head_cosine', 'neuron_cosine_mean')
RESULT = 'result.json'


def compare(cfg: Config, work_dir: str | Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Train a config and its plain twin with the same seeds, and measure both.

    Every run has a folder of its own, ``<work_dir>/<arm>/seed<seed>``, an ordinary MMPretrain
    work dir plus ``result.json`` once it has ended. Runs that have ended are not repeated; one
    that was interrupted goes on from its last checkpoint.

    Args:
        cfg (Config): A diversified config.
        work_dir (str | Path): Where the runs go.
        seeds (Sequence[int]): A pair of runs for each; the two share initial weights, data order
            and augmentation.

    Returns:
        list[dict]: The result of each run; after Ctrl-C, of those that have ended. ``arm``,
        ``seed``, ``accuracy`` (percent, after the last epoch), ``metric`` (its name),
        ``accuracy_per_epoch``, ``loss_per_epoch`` (training, without diversity terms),
        ``seconds_per_epoch`` (median, training only) and a list over blocks for each of
        :data:`MEASURES`.

    Raises:
        ValueError: If the config is not diversified or does not count epochs, or the folder holds
            results of another config.
        OSError: If the folder cannot be written.
    """
    if not is_diversified(cfg):
        raise ValueError('there is nothing to compare: the config holds no mmdiverse.DiversityHook '
                         'in `custom_hooks` and no patch-level mixing')
    if 'max_epochs' not in cfg.train_cfg:
        raise ValueError('compare counts epochs: `train_cfg` must hold `max_epochs`, but got '
                         f'{dict(cfg.train_cfg)}')
    arms = dict(zip(ARMS, (plain_twin(cfg), deepcopy(cfg))))
    runs = [(arm, seed) for seed in seeds for arm in ARMS]
    folders = {run: Path(work_dir) / run[0] / f'seed{run[1]}' for run in runs}
    results = {run: _load_result(folders[run], arms[run[0]]) for run in runs}
    progress = Progress(len(runs), cfg.train_cfg.max_epochs)
    try:
        for number, run in enumerate(runs, start=1):
            label = f'[{number}/{len(runs)}] {run[0]}, seed {run[1]}'
            if results[run] is None:
                results[run] = _train(arms[run[0]], *run, folders[run], progress, label)
            else:
                progress.skip_run()
                print(f'{label}: done before')
    except KeyboardInterrupt:
        print('\nInterrupted. Finished runs are kept; the same command goes on from here.')
    return [result for result in results.values() if result is not None]


class Progress(Hook):
    """Prints a line per epoch with the time left for all runs.

    Args:
        num_runs (int): Runs in all.
        max_epochs (int): Epochs of a run.
    """

    priority = 'VERY_LOW'

    def __init__(self, num_runs: int, max_epochs: int) -> None:
        self.epochs_left = num_runs * max_epochs
        self.max_epochs = max_epochs
        self.label = ''
        self.epoch_seconds: list[float] = []
        self._all_seconds: list[float] = []
        self._start = 0.

    def skip_run(self) -> None:
        """Count a run as done that was done before."""
        self.epochs_left -= self.max_epochs

    def before_train(self, runner: Runner) -> None:
        self.epochs_left -= runner.epoch
        self.epoch_seconds = []

    def before_train_epoch(self, runner: Runner) -> None:
        self._start = time.perf_counter()

    def after_train_epoch(self, runner: Runner) -> None:
        self.epoch_seconds.append(time.perf_counter() - self._start)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.epochs_left -= 1
        self._all_seconds.append(time.perf_counter() - self._start)
        left = int(self.epochs_left * statistics.fmean(self._all_seconds))
        scores = ', '.join(f'{name} {value:.2f}' for name, value in (metrics or {}).items()
                           if not name.endswith('time'))
        print(f'{self.label}: epoch {runner.epoch}/{runner.max_epochs}, {scores} '
              f'({left // 60}:{left % 60:02d} left in all)', flush=True)


def _train(cfg: Config, arm: str, seed: int, folder: Path, progress: Progress,
           label: str) -> dict[str, Any]:
    digest = _digest(cfg)
    cfg = deepcopy(cfg)
    cfg.work_dir = str(folder)
    cfg.experiment_name = f'{arm}_seed{seed}'
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    cfg.resume = (folder / 'last_checkpoint').exists()
    progress.label = label
    runner = quiet_runner(cfg)
    runner.register_hook(progress, priority='VERY_LOW')
    runner.train()
    redundancy = measure_redundancy(runner.model, runner.val_dataloader, MEASURES)
    scalars = runner.message_hub.log_scalars
    metric = next(name for name in scalars
                  if name.startswith('val/') and not name.endswith('time'))
    accuracy = [float(value) for value in scalars[metric].data[0]]
    # With terms, MMEngine's `loss` is the total and the hook logs the head's part apart.
    loss = scalars['train/loss_cls' if 'train/loss_cls' in scalars else 'train/loss'].data[0]
    steps = len(loss) // runner.max_epochs
    result = dict(
        arm=arm, seed=seed, config=digest, metric=metric.removeprefix('val/'),
        accuracy=accuracy[-1], accuracy_per_epoch=accuracy,
        loss_per_epoch=[float(loss[i:i + steps].mean()) for i in range(0, len(loss), steps)],
        seconds_per_epoch=statistics.median(progress.epoch_seconds), **redundancy)
    _write_json(folder / RESULT, result)
    return result


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


def _load_result(folder: Path, cfg: Config) -> dict[str, Any] | None:
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / 'config.sha256'
    digest = _digest(cfg)
    if marker.exists() and marker.read_text() != digest:
        raise ValueError(f'{folder} holds a run of another config; choose another --work-dir, or '
                         'delete the folder')
    marker.write_text(digest)
    path = folder / RESULT
    return json.loads(path.read_text()) if path.exists() else None


def _digest(cfg: Config) -> str:
    return hashlib.sha256(json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode()
                          ).hexdigest()


def _write_json(path: Path, content: Any) -> None:
    """Write in one step, so that an interruption never leaves half a file."""
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(content, indent=2) + '\n')
    os.replace(temporary, path)
