"""A study: the same training with and without diversity, in several models, arms and seeds."""
import argparse
import contextlib
import csv
import ctypes
import io
import json
import os
import queue
import re
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
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
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.fileio import load, put_text
from mmengine.runner import Runner

from ..config import load_config, plain_twin
from ..recipe import diff_configs
from ..spelling import counted
from .interruption import explain_interruption, interruptible
from .measurement import machine_name
from .runs import (
    MEASURES,
    Progress,
    Run,
    check_epochs,
    digest_of,
    epochs_of,
    load_result,
    measure_classifier,
    merge_options,
    train,
)

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
#: How long a run may take to end when the study is ended.
SECONDS_TO_END = 10.
#: Tells a run which process is that of its study.
STUDY = 'MMDIVERSE_STUDY'
#: Of Linux' prctl: the signal that a process gets when the one that started it has ended.
PR_SET_PDEATHSIG = 1


class _Unquoted(str):
    """Text of a study file that stands there without quotes, and may be meant as a number."""


class _StudyLoader(yaml.SafeLoader):
    """Leaves to :func:`_read_value` what is a number or a truth value, and refuses double keys.

    YAML 1.1 reads ``5e-4`` as text, ``on`` as ``true`` and ``1:30`` as 90.
    """

    def construct_text(self, node: yaml.ScalarNode) -> str:
        return node.value if node.style else _Unquoted(node.value)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(problem=f'the key {key.value!r} stands there twice',
                                           problem_mark=key.start_mark)
        return node


# Of what is not in quotes, YAML itself knows nothing but `null` and `<<`.
_StudyLoader.yaml_implicit_resolvers = {}
_StudyLoader.add_implicit_resolver('tag:yaml.org,2002:null', re.compile('(~|null|Null|NULL|)$'),
                                   ['~', 'n', 'N', ''])
_StudyLoader.add_implicit_resolver('tag:yaml.org,2002:merge', re.compile('<<$'), ['<'])
_StudyLoader.add_constructor('tag:yaml.org,2002:str', _StudyLoader.construct_text)


def _read_value(value: Any, where: str) -> Any:
    """Read a value, and all in it, as ``--cfg-options`` does; what is in quotes stays text."""
    if isinstance(value, dict):
        return {str(key): _read_value(each, f'{where}.{key}') for key, each in value.items()}
    if isinstance(value, list):
        return [_read_value(each, f'{where}.{number}') for number, each in enumerate(value)]
    if not isinstance(value, _Unquoted):
        return value
    if any(value.count(opening) != value.count(closing) for opening, closing in ('()', '[]')):
        raise ValueError(f'{where}: the brackets of {str(value)!r} do not match: write a list as '
                         '[0.9, 0.999], or put text in quotes')
    if value.lower().lstrip('+-') in ('.inf', '.nan'):  # in YAML, numbers begin with a dot
        return float(value.replace('.', ''))
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    read = parser.parse_args(['--cfg-options', f'value={value}']).cfg_options['value']
    return str(value) if isinstance(read, str) else read  # which would lack its spaces


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

    Configs are looked for beside the file, or are ``package::path``. Values of options are read as
    ``--cfg-options`` reads them, not as YAML 1.1 would: ``5e-4`` is a number, ``(0.9, 0.95)`` a
    tuple, and ``on`` text. What is in quotes is text.

    Args:
        path (str | Path): The file.

    Raises:
        FileNotFoundError: If it or a config is not there.
        ValueError: If it is no YAML, a key is unknown, missing, there twice or of another type,
            there is no arm, options do not fit a config, a config does not count epochs or does not
            validate each, or an arm differs from its plain twin in more than diversity.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _StudyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path.name} is no YAML: {error}') from error
    _check_keys('study', content, path.name)
    if not _is_folder(content['name']):
        raise ValueError(f'{path.name}: `name` must be that of a folder, but got '
                         f'{content["name"]!r}')
    seeds = _read_value(content['seeds'], f'{path.name}: seeds')
    if not (isinstance(seeds, list) and seeds and all(map(_is_seed, seeds))
            and len({*seeds}) == len(seeds)):
        raise ValueError(f'{path.name}: `seeds` must be different whole numbers such as [0, 1, 2], '
                         f'but got {seeds!r}')
    options = _read_options(content, path.name)
    configs = {}
    for model, spec in _check_named(content['models'], f'{path.name}: models').items():
        where = f'{path.name}: models.{model}'
        _check_keys('model', spec, where)
        arms = _check_named(spec['arms'], f'{where}.arms')
        if PLAIN in arms:
            raise ValueError(f'{where}.arms: {PLAIN!r} is the twin of all; choose another name')
        same = {**options, **_read_options(spec, where)}
        plain = _load(path.parent, spec[PLAIN], same, f'{where}.{PLAIN}')
        configs[model] = {PLAIN: plain}
        for arm, config in arms.items():
            cfg = _load(path.parent, config, same, f'{where}.arms.{arm}')
            _check_arm(cfg, plain, f'{where}.arms.{arm}')
            configs[model][arm] = cfg
    return Study(str(content['name']), seeds, configs)


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_keys(kind: str, content: Any, where: str) -> dict[str, Any]:
    known = KEYS[kind]
    if not isinstance(content, dict):
        raise ValueError(f'{where} must be a mapping with the keys {list(known)}, but got '
                         f'{content!r}')
    unknown, missing = (
        [str(key) for key in content if key not in known],
        [key for key, needed in known.items() if needed and key not in content])
    if unknown:
        raise ValueError(f'{where} has the unknown keys {unknown}; there are {list(known)}')
    if missing:
        raise ValueError(f'{where} lacks the keys {missing}')
    return content


def _check_named(content: Any, where: str) -> dict[str, Any]:
    """Check that there is at least one model or arm, and that its name can be that of a folder."""
    if not isinstance(content, dict) or not content:
        raise ValueError(f'{where} must be a mapping that names at least one, but got {content!r}')
    for name in content:
        if not _is_folder(name):
            raise ValueError(f'{where}: names are those of folders, but got {name!r}')
    return {str(name): each for name, each in content.items()}


def _read_options(content: dict[str, Any], where: str) -> dict[str, Any]:
    options = content.get('options') or {}
    if not isinstance(options, dict):
        raise ValueError(f'{where}: `options` must be a mapping such as {{train_cfg.max_epochs: '
                         f'50}}, but got {options!r}')
    return _read_value(options, f'{where}: options')


def _load(folder: Path, config: str | dict[str, Any], options: dict[str, Any], where: str
          ) -> Config:
    if _is_path(config):
        config = dict(config=config)
    name = _check_keys('arm', config, where)['config']
    if not _is_path(name):
        raise ValueError(f'{where}: `config` must be a path, or package::path, but got {name!r}')
    try:
        cfg = load_config(str(name) if '::' in name else folder / name)
        merge_options(cfg, options)
        merge_options(cfg, _read_options(config, where))
        check_epochs(cfg)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{where}: {error}') from None
    except ValueError as error:
        raise ValueError(f'{where}, {name}: {error}') from None
    if cfg.train_cfg.get('val_interval', 1) != 1:
        raise ValueError(f'{where}, {name}: `train_cfg` must hold `max_epochs`, and '
                         '`val_interval=1`, since every epoch is validated, but got '
                         f'{dict(cfg.train_cfg)}')
    return cfg


def _is_folder(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and Path(name).name == name


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(_read_value(value, ''), (int, float))


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
        KeyboardInterrupt: By Ctrl-C, SIGTERM, or the end of the study that started this process.
        ValueError: If its folder holds a run of another config.
        OSError: If the folder cannot be written.
    """
    with interruptible():
        _end_with_study()
        return _run_task(run)


def _end_with_study() -> None:
    """Have Linux end this process when the study that started it is killed."""
    study = os.environ.get(STUDY)
    if study is None:
        return
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        os.kill(int(study), 0)  # which asks whether it is there
    except ProcessLookupError:
        raise KeyboardInterrupt('the end of the study') from None


def _run_task(run: Run) -> bool:
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

    SIGTERM and SIGHUP do the same as Ctrl-C: they end all runs that have not ended. A run that
    fails is marked, and the others go on. The line of every epoch comes here; all else that a
    process says goes to ``study.log`` in its folder.

    Args:
        runs (Sequence[Run]): Of a study.
        command (Sequence[str]): What trains one of them, but for its number.
        jobs (int): Runs at a time on each device. Defaults to 1.
        devices (Sequence[str]): GPUs, by their numbers; with none, each process takes what it
            finds, and with the others shares the cores, unless ``OMP_NUM_THREADS`` is set. Defaults
            to none.

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
    # Else each process would take all cores; but who has set this has had a reason.
    threads = os.environ.get('OMP_NUM_THREADS') or str(max(1, (os.cpu_count() or 1) // jobs))
    for _ in range(jobs):
        for device in devices or ['']:
            slots.put(dict(CUDA_VISIBLE_DEVICES=device) if device else
                      dict(OMP_NUM_THREADS=threads))
    at_once = slots.qsize()
    processes = _Processes()

    def run_one(number: int) -> None:
        slot = slots.get()
        try:
            if not processes.stopped:
                _run_process(runs[number], [*command, str(number)], slot, processes)
        finally:
            slots.put(slot)

    with interruptible(), ThreadPoolExecutor(at_once) as pool:
        try:
            futures = {pool.submit(run_one, number): runs[number] for number in waiting}
            for future in as_completed(futures):
                future.result()
                run = futures.pop(future)
                failure = _read_failure(run)
                print(f'{run}: {failure["status"]}: {failure["message"]}' if failure else
                      f'{run}: {ENDED}', f'({_time_left(runs, at_once)})', flush=True)
        except KeyboardInterrupt as interruption:
            print(f'\n{explain_interruption(interruption)}', flush=True)
        finally:
            processes.stop()
    return all(map(load_result, runs))


class _Processes:
    """Processes of a study, of which none outlives it.

    Attributes:
        stopped (bool): Whether no more are to be started.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._started: list[subprocess.Popen] = []
        self._lock = threading.Lock()

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        """Start one; if it is too late for that, it is ended at once."""
        with self._lock:
            process = subprocess.Popen(command, **options)
            self._started.append(process)
            if self.stopped:
                process.terminate()
        return process

    def stop(self) -> None:
        """End all by SIGTERM, and after a while those that do not listen by SIGKILL."""
        with self._lock:
            self.stopped = True
            for process in self._started:
                process.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        try:
            for process in self._started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0., deadline - time.monotonic()))
        finally:  # also where Ctrl-C is pressed again
            for process in self._started:
                process.kill()


def _run_process(run: Run, command: Sequence[str], slot: dict[str, str], processes: _Processes
                 ) -> None:
    environment = {**os.environ, **slot, STUDY: str(os.getpid())}
    with open(run.folder / LOG, 'a', encoding='utf-8') as log, processes.start(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        for line in process.stdout:
            print(line, end='', flush=True)
    if not processes.stopped and load_result(run) is None and _read_failure(run) is None:
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
    return f'{counted(len(waiting), "run")} and about {counted(round(left / 60), "minute")} left'


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
    for measure, curve in (('accuracy', 'accuracy'), ('train_loss', 'loss')):
        for epoch, value in zip(epochs_of(result, curve), result[f'{curve}_per_epoch']):
            yield dict(same, measure=measure, epoch=epoch, value=f'{value:.6g}')
    for measure in MEASURES:
        for block, value in enumerate(result[measure]):
            yield dict(same, measure=measure, block=block, value=f'{value:.6g}')
    for measure in ('seconds', 'seconds_per_epoch', 'peak_memory_mib'):
        yield dict(same, measure=measure, value=f'{result[measure]:.6g}')
