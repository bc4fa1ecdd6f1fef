"""A study: the same training with and without diversity, in several models, arms and seeds."""
import csv
import io
import json
import os
import queue
import resource
import signal
import statistics
import subprocess
import threading
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmpretrain
import torch
import yaml
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import load, put_text
from mmengine.runner import Runner

from ..config import load_config, plain_twin
from ..recipe import diff_configs
from .measurement import machine_name
from .runs import MEASURES, Progress, Run, digest_of, load_result, measure_classifier, train

PLAIN = 'plain'
#: Keys of each part of a study file, and whether it must have them.
KEYS = {
    'study': {'name': True, 'seeds': True, 'models': True, 'options': False},
    'model': {PLAIN: True, 'arms': True, 'options': False},
    'arm': {'config': True, 'options': False},
}
#: Of the results: a row for every value, or one without a measure for a run that failed.
COLUMNS = ('study', 'model', 'arm', 'seed', 'config', 'machine', 'status', 'measure', 'epoch',
           'block', 'value')
ENDED, FAILED, OUT_OF_MEMORY = 'ended', 'failed', 'out of memory'
FAILURE, LOG = 'failure.json', 'study.log'


class _StudyLoader(yaml.SafeLoader):
    """Reads ``on`` as the key of a term that it is, where YAML 1.1 reads ``true``."""


_StudyLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers
            if tag != 'tag:yaml.org,2002:bool' or first in 'tTfF']
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}


@dataclass(frozen=True)
class Study:
    """Which configs are trained, and with which seeds.

    Attributes:
        name (str): Of the study.
        seeds (list[int]): Every arm is trained with each.
        configs (dict[str, dict[str, Config]]): For each model, its arms by name, ``'plain'`` first.
    """

    name: str
    seeds: list[int]
    configs: dict[str, dict[str, Config]]

    def runs(self, work_dir: str | Path) -> list[Run]:
        """All runs, seed by seed, so that a study that is cut short has whole sets of arms.

        Args:
            work_dir (str | Path): Each has the folder ``<work_dir>/<model>/<arm>/seed<seed>``.
        """
        return [Run(cfg, arm, seed, Path(work_dir) / model / arm / f'seed{seed}', model,
                    digest_of(cfg), _measure)
                for seed in self.seeds for model, arms in self.configs.items()
                for arm, cfg in arms.items()]


def load_study(path: str | Path) -> Study:
    """Load a study from a YAML file.

    .. code-block:: yaml

        name: cifar10
        seeds: [0, 1, 2]
        options:                                # of every run, as in --cfg-options
          train_cfg.max_epochs: 50
        models:
          deit-tiny-p4:
            plain: deit-tiny-p4_1xb128_cifar10.py
            arms:
              patch: deit-tiny-p4_diverse-patch_1xb128_cifar10.py
              patch-half:
                config: deit-tiny-p4_diverse-patch_1xb128_cifar10.py
                options: {custom_hooks.1.terms.0.weight: 0.25}

    Configs are looked for beside the file, or are ``package::path``.

    Args:
        path (str | Path): The file.

    Raises:
        FileNotFoundError: If it or a config is not there.
        ValueError: If it is no YAML, a key is unknown or missing, a config does not count epochs
            or does not validate each, or an arm differs from its plain twin in more than diversity.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(), _StudyLoader)
    except yaml.YAMLError as error:
        raise ValueError(f'{path.name} is no YAML: {error}') from error
    _check_keys('study', content, path.name)
    seeds = content['seeds']
    if not (isinstance(seeds, list) and seeds and len({*seeds}) == len(seeds)
            and all(isinstance(seed, int) and seed >= 0 for seed in seeds)):
        raise ValueError(f'{path.name}: `seeds` must be different whole numbers such as [0, 1, 2], '
                         f'but got {seeds!r}')
    configs = {}
    for model, spec in content['models'].items():
        where = f'{path.name}: models.{model}'
        _check_keys('model', spec, where)
        if PLAIN in spec['arms']:
            raise ValueError(f'{where}.arms: {PLAIN!r} is the twin of all; choose another name')
        options = {**content.get('options', {}), **spec.get('options', {})}
        configs[model] = arms = {PLAIN: _load(path.parent, spec[PLAIN], options)}
        for arm, config in spec['arms'].items():
            if not isinstance(config, str):
                _check_keys('arm', config, f'{where}.arms.{arm}')
            arms[arm] = _load(path.parent, config, options)
            _check_arm(arms[arm], arms[PLAIN], f'{where}.arms.{arm}')
    return Study(str(content['name']), seeds, configs)


def _check_keys(kind: str, content: Any, where: str) -> dict[str, Any]:
    known = KEYS[kind]
    if not isinstance(content, dict):
        raise ValueError(f'{where} must be a mapping with the keys {list(known)}, but got '
                         f'{content!r}')
    unknown, missing = (
        [key for key in content if key not in known],
        [key for key, needed in known.items() if needed and key not in content])
    if unknown:
        raise ValueError(f'{where} has the unknown keys {unknown}; there are {list(known)}')
    if missing:
        raise ValueError(f'{where} lacks the keys {missing}')
    return content


def _load(folder: Path, config: str | dict[str, Any], options: dict[str, Any]) -> Config:
    name, own = (config, {}) if isinstance(config, str) else \
        (config['config'], config.get('options', {}))
    cfg = load_config(name if '::' in name else folder / name)
    for each in (options, own):
        cfg.merge_from_dict(each)
    if 'max_epochs' not in cfg.train_cfg or cfg.train_cfg.get('val_interval', 1) != 1:
        raise ValueError(f'{name}: `train_cfg` must hold `max_epochs`, and `val_interval=1`, since '
                         f'every epoch is validated, but got {dict(cfg.train_cfg)}')
    return cfg


def _check_arm(cfg: Config, plain: Config, where: str) -> None:
    # Of diversity a twin may keep the fragment that its config inherits, which nothing reads.
    differences = [each for each in diff_configs(plain_twin(cfg), plain_twin(plain))
                   if not each.key.startswith('diversity.')]
    if differences:
        listed = '; '.join(f'{each.key} is {each.ours} here, {each.theirs} there'
                           for each in differences)
        raise ValueError(f'{where} differs from the plain config in more than diversity: {listed}')


def _measure(runner: Runner) -> dict[str, Any]:
    device = torch.device(get_device())
    # As Linux counts it, all of the process: on a CPU, tensors cannot be told from the rest.
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == 'cuda' else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return dict(
        measure_classifier(runner), peak_memory_mib=memory,
        machine=f'{machine_name(device)}, {torch.get_num_threads()} threads, torch '
                f'{torch.__version__}, mmpretrain {mmpretrain.__version__}')


def run_task(run: Run) -> bool:
    """Train one run in this process, and leave its result or its failure in its folder.

    Args:
        run (Run): Of a study.

    Returns:
        bool: Whether it ended.

    Raises:
        ValueError: If its folder holds a run of another config.
        OSError: If the folder cannot be written.
    """
    if load_result(run):
        return True
    (run.folder / FAILURE).unlink(missing_ok=True)
    progress = Progress([run], 'of this run')
    progress.label = str(run)
    try:
        train(run, progress)
    except Exception as error:  # whatever it is, the other runs go on
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or \
            "can't allocate memory" in str(error)
        _mark(run, OUT_OF_MEMORY if memory else FAILED, f'{type(error).__name__}: {error}')
        traceback.print_exc()
        return False
    return True


def _mark(run: Run, status: str, message: str) -> None:
    failure = dict(config=run.digest, status=status, message=message)
    put_text(json.dumps(failure, indent=2) + '\n', run.folder / FAILURE)


def _read_failure(run: Run) -> dict[str, str] | None:
    path = run.folder / FAILURE
    return load(path) if path.exists() else None


def run_study(runs: Sequence[Run], command: Sequence[str], jobs: int = 1,
              devices: Sequence[str] = ()) -> bool:
    """Train what has not ended before, each run in a process of its own, until all have or Ctrl-C.

    A run that fails is marked, and the others go on. The line of every epoch comes here; all else
    that a process says goes to ``study.log`` in its folder.

    Args:
        runs (Sequence[Run]): Of a study.
        command (Sequence[str]): What trains one of them, but for its number.
        jobs (int): Runs at a time on each device. Defaults to 1.
        devices (Sequence[str]): GPUs, by their numbers; with none, each process takes what it
            finds. Defaults to none.

    Returns:
        bool: Whether all have ended.

    Raises:
        ValueError: If a folder holds a run of another config, or ``jobs`` is less than 1.
        OSError: If a folder cannot be written.
    """
    if jobs < 1:
        raise ValueError(f'--jobs must be at least 1, but got {jobs}')
    waiting = [number for number, run in enumerate(runs) if load_result(run) is None]
    print(f'{len(runs)} runs, of which {len(runs) - len(waiting)} ended before')
    slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for _ in range(jobs):
        for device in devices or ['']:
            slots.put(dict(CUDA_VISIBLE_DEVICES=device) if device else
                      dict(OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // jobs))))
    stop = threading.Event()

    def run_one(number: int) -> None:
        slot = slots.get()
        if not stop.is_set():
            _run_process(runs[number], [*command, str(number)], slot, stop)
        slots.put(slot)

    at_once = slots.qsize()
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(run_one, number): runs[number] for number in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                run = futures.pop(future)
                failure = _read_failure(run)
                print(f'{run}: {failure["status"]}: {failure["message"]}' if failure else
                      f'{run}: {ENDED}', f'({_time_left(runs, at_once)})', flush=True)
        except KeyboardInterrupt:
            stop.set()
            print('\nInterrupted. Ended runs are kept; the same command goes on from here.')
    return all(map(load_result, runs))


def _run_process(run: Run, command: Sequence[str], slot: dict[str, str],
                 stop: threading.Event) -> None:
    with open(run.folder / LOG, 'a', encoding='utf-8') as log, subprocess.Popen(
            command, env={**os.environ, **slot}, stdout=subprocess.PIPE, stderr=log,
            text=True) as process:
        for line in process.stdout:
            print(line, end='', flush=True)
            if stop.is_set():
                process.send_signal(signal.SIGINT)
    if not stop.is_set() and load_result(run) is None and _read_failure(run) is None:
        # By this signal Linux ends a process when memory runs out; others may use it as well.
        killed = process.returncode == -signal.SIGKILL
        _mark(run, OUT_OF_MEMORY if killed else FAILED,
              f'the process ended with {process.returncode}; see {run.folder / LOG}')


def _time_left(runs: Sequence[Run], at_once: int) -> str:
    """In words, from how long the runs of the same model took."""
    seconds, waiting = defaultdict(list), []
    for run in runs:
        if result := load_result(run):
            seconds[run.kind].append(result['seconds'])
        elif _read_failure(run) is None:
            waiting.append(run.kind)
    known = [each for values in seconds.values() for each in values] or [0.]
    left = sum(statistics.fmean(seconds.get(kind, known)) for kind in waiting) / at_once
    return f'{len(waiting)} runs and about {left / 60:.0f} minutes left'


def write_results(study: Study, runs: Sequence[Run], path: str | Path) -> list[dict[str, Any]]:
    """Write the results of all runs that have ended or failed to a CSV file.

    It has a row for every value. ``measure`` is ``accuracy`` (percent, of every ``epoch``),
    ``train_loss`` (of every epoch, without diversity terms), one of
    :data:`~mmdiverse.evaluation.runs.MEASURES` (of every ``block``, after the last epoch),
    ``seconds``, ``seconds_per_epoch`` (median, training only) or ``peak_memory_mib`` (of tensors on
    a GPU, else of the process). ``config`` is the digest of the whole config. A run that failed has
    one row, with its ``status`` alone.

    Args:
        study (Study): The study.
        runs (Sequence[Run]): Its runs.
        path (str | Path): The file.

    Returns:
        list[dict]: The rows, by :data:`COLUMNS`.

    Raises:
        OSError: If the file cannot be written.
    """
    rows = [dict.fromkeys(COLUMNS, '') | dict(
        study=study.name, model=run.kind, arm=run.arm, seed=run.seed, config=run.digest[:12], **row)
        for run in runs for row in _rows(run)]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    put_text(text.getvalue(), path)
    return rows


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    result = load_result(run)
    if result is None:
        if failure := _read_failure(run):
            yield dict(status=failure['status'])
        return
    same = dict(machine=result['machine'], status=ENDED)
    for measure, key in (('accuracy', 'accuracy_per_epoch'), ('train_loss', 'loss_per_epoch')):
        for epoch, value in enumerate(result[key], start=1):
            yield dict(same, measure=measure, epoch=epoch, value=f'{value:.6g}')
    for measure in MEASURES:
        for block, value in enumerate(result[measure]):
            yield dict(same, measure=measure, block=block, value=f'{value:.6g}')
    for measure in ('seconds', 'seconds_per_epoch', 'peak_memory_mib'):
        yield dict(same, measure=measure, value=f'{result[measure]:.6g}')
