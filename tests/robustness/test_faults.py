"""Processes, disks and files that fail while a run trains, through the commands that users type.

Whatever happens, a run ends with an error that says what happened, every checkpoint that it leaves
can be read, and it goes on from the last one.
"""
from __future__ import annotations

import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mmdiverse  # noqa: F401  (lets torch read MMEngine's checkpoints)
from mmdiverse.datasets import Digits
from tests.runs import DIGITS
from tests.test_end_to_end import validation_accuracies

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
#: Seconds; a start takes some 8 of them on an idle machine, and tests may share it.
PATIENCE = 180

CONFIG = '''
_base_ = [{base!r}]
train_dataloader = dict(batch_size=8, num_batch_per_epoch=8)
val_dataloader = dict(num_batch_per_epoch=1)
train_cfg = dict(max_epochs=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=9))
'''

#: All that a resumed run could get wrong: random numbers of every kind, and what persists.
EVERYTHING = '''
_base_ = [{base!r}]
custom_imports = dict(imports=['parts_of_the_test'])
train_dataloader = dict(batch_size=8, num_batch_per_epoch=4)
train_cfg = dict(max_epochs={epochs})
model = dict(backbone=dict(drop_path_rate=0.3))
optim_wrapper = dict(clip_grad=dict(max_norm=0.5))
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
custom_hooks = [
    dict(type='mmdiverse.EpochSeedHook'),
    dict(type='mmdiverse.DiversityHook', terms=[
        dict(type='CosineLoss', on='patch', weight=0.5, schedule=[
            dict(type='LinearParamScheduler', start_factor=0.1, end=7),
            dict(type='MultiStepParamScheduler', milestones=[15], gamma=0.)]),
        dict(type='CosineLoss', on='attention', layers='all', weight=0.1, schedule=dict(
            type='CosineAnnealingParamScheduler', eta_min=0.01, by_epoch=False)),
        dict(type='ConditionalOrthogonalityLoss', on='weight', method='power', weight=2e-2),
        dict(type='ConditionalOrthogonalityLoss', on='weight', method='official', weight=1e-2,
             name='official'),
    ]),
    dict(type='EMAHook', momentum=0.05),
    dict(type='Trace'),
]
'''

PARTS = '''
import torch
from mmdiverse.losses import DiversityLoss
from mmdiverse.registry import LOSSES
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Trace(Hook):
    """Says in a file what the run is about to do."""

    priority = 'LOWEST'  # so that the others are done

    def say(self, runner, phase):
        with open('trace', 'a') as file:
            file.write(f'{phase} {runner.epoch} {runner.iter}\\n')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.say(runner, 'step')

    def before_save_checkpoint(self, runner, checkpoint):
        self.say(runner, 'save')

    def after_train_epoch(self, runner):
        self.say(runner, 'saved')

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.say(runner, 'validate')


@LOSSES.register_module()
class BreaksLoss(DiversityLoss):
    formula, cost = '0', '1'
    calls = 0

    def forward(self, record):
        self.calls += 1
        value = record.mean_direction().square().sum(dim=-1)
        return value * float('nan') if self.calls > 12 else value
'''


def write_config(folder: Path, text: str = CONFIG, **values: Any) -> Path:
    path = folder / 'fault.py'
    path.write_text(text.format(base=str(DIGITS / 'deit-nano_diverse_digits.py'), **values))
    (folder / 'parts_of_the_test.py').write_text(PARTS)
    return path


class Command:
    """A command, in a process group of its own that does not outlive the block it is used in."""

    def __init__(self, folder: Path, *words: object, **env: str) -> None:
        self.log = folder / 'output.txt'
        path = os.pathsep.join(filter(None, [str(folder), str(ROOT), os.environ.get('PYTHONPATH')]))
        # A hidden GPU keeps the test what it says on machines that have one.
        environment = {**os.environ, 'PYTHONPATH': path, 'PYTHON': sys.executable,
                       'CUDA_VISIBLE_DEVICES': '', **env}
        with self.log.open('w') as output:
            self.process = subprocess.Popen(
                [str(word) for word in words], cwd=folder, env=environment, stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End the command and all that it started, at once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text(errors='replace')

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Wait for something that happens while the command runs."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f'ended too early: {self.output[-3000:]}'
            assert time.monotonic() < deadline, f'nothing happened: {self.output[-3000:]}'
            time.sleep(0.001)

    def code(self, seconds: float = PATIENCE) -> int:
        """How the command ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f'still there after {seconds} s: {self.output[-3000:]}')


def training(folder: Path, *words: object) -> Command:
    """Training in ``folder / 'out'``."""
    return Command(folder, sys.executable, TOOLS / 'train.py', folder / 'fault.py', '--work-dir',
                   folder / 'out', *words)


def succeeds(command: Command) -> str:
    """What a command printed that must end well."""
    with command:
        assert command.code() == 0, command.output[-3000:]
        return command.output


def checkpoints(folder: Path) -> dict[str, dict]:
    """All checkpoints of a run by name, each of which must be readable."""
    paths = [path for path in sorted((folder / 'out').glob('*.pth')) if path.name[0] != '.']
    return {path.name: torch.load(path, weights_only=True) for path in paths}


def goes_on(folder: Path, epochs: int = 4) -> None:
    """The run must resume, not start anew, and end well."""
    printed = succeeds(training(folder, '--resume'))
    assert re.search(r'resumed epoch: [1-9]', printed)
    assert f'epoch_{epochs}.pth' in checkpoints(folder)


def last_words(output: str) -> str:
    """The end of what a failed run printed, where users look first."""
    return '\n'.join(output.rstrip().splitlines()[-25:])


# 20 times kill -9


KILLS = 20
EPOCHS = 24


def marks(folder: Path, skip: int = 0) -> list[list[str]]:
    """What the run says that it has been doing; a line may be half there."""
    text = (folder / 'trace').read_text() if (folder / 'trace').exists() else ''
    return [line.split() for line in text.splitlines(keepends=True)[skip:] if line[-1] == '\n']


def kill_somewhere(folder: Path, rng: random.Random) -> str:
    """Resume a run and kill it at a random point of its next one or two epochs.

    Saving takes a few milliseconds, which a point in time at random would hardly ever hit; so the
    phase is drawn first, then which one of its kind, then the time after its beginning.
    """
    phase = rng.choice(['step', 'save', 'validate'])
    count = rng.randint(1, {'step': 7, 'save': 2, 'validate': 4}[phase])
    delay = rng.uniform(0, 0.02 if phase == 'save' else 0.08)
    done = len(marks(folder))
    with training(folder, '--resume') as command:
        command.wait_until(lambda: sum(
            mark[0] == phase for mark in marks(folder, done)) >= count)
        time.sleep(delay)
        command.kill()
        resumed = re.search(r'resumed epoch: (\d+)', command.output)
    last, epoch, iteration = marks(folder)[-1]
    return (f'from epoch {resumed[1] if resumed else 0}, killed {1e3 * delay:.1f} ms after '
            f'{phase} {count}: during {last!r}, epoch {epoch}, iter {iteration}')


def same(first: Any, second: Any) -> bool:
    """Whether two values out of checkpoints are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_a_run_killed_twenty_times_ends_as_the_uninterrupted_one_bit_for_bit(
        tmp_path: Path) -> None:
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    for folder in (killed, whole):
        folder.mkdir()
        write_config(folder, EVERYTHING, epochs=EPOCHS)
    rng = random.Random(0)
    for index in range(KILLS):
        print(f'kill {index + 1}: {kill_somewhere(killed, rng)}; left', *checkpoints(killed))
    succeeds(training(killed, '--resume'))
    succeeds(training(whole))

    last, expected = (checkpoints(folder)[f'epoch_{EPOCHS}.pth'] for folder in (killed, whole))
    assert {'ema_state_dict', 'diversity_hook'} <= expected.keys()
    parts = expected.keys() - {'meta', 'message_hub'}  # which hold times and names of files
    different = [part for part in sorted(parts) if not same(last[part], expected[part])]
    different += [key for key in ('epoch', 'iter') if last['meta'][key] != expected['meta'][key]]
    assert different == []
    assert last.keys() == expected.keys()
    ends = [validation_accuracies(folder / 'out')[-1] for folder in (killed, whole)]
    assert ends[0] == ends[1]


# Disks and files


def test_a_full_disk_ends_the_run_and_spares_the_last_checkpoint(tmp_path: Path) -> None:
    write_config(tmp_path)
    with training(tmp_path) as command:
        command.wait_until((tmp_path / 'out' / 'last_checkpoint').exists)
        # Writes beyond the limit fail in the middle, as on a full disk; Python ignores SIGXFSZ.
        resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (500_000, 500_000))
        assert command.code() != 0
        assert re.search(r"Error: .*epoch_2\.pth.*File too large|"
                         r"Error: .*File too large.*epoch_2\.pth", last_words(command.output))
    assert checkpoints(tmp_path).keys() == {'epoch_1.pth'}
    goes_on(tmp_path)


def test_half_a_checkpoint_is_named_before_the_first_step_and_the_one_before_serves(
        tmp_path: Path) -> None:
    write_config(tmp_path)
    succeeds(training(tmp_path, '--cfg-options', 'train_cfg.max_epochs=2'))
    good, half = (tmp_path / 'out' / f'epoch_{epoch}.pth' for epoch in (1, 2))
    os.truncate(half, half.stat().st_size // 2)
    with training(tmp_path, '--resume') as command:
        assert command.code() != 0
        assert re.search(rf'Error: .*{re.escape(str(half))}', last_words(command.output))
        assert 'Epoch(train)' not in command.output
    assert 'resumed epoch: 1,' in succeeds(training(tmp_path, '--resume', good))
    assert checkpoints(tmp_path).keys() == {f'epoch_{epoch}.pth' for epoch in (1, 2, 3, 4)}


IMAGES = '''
train_dataloader['num_workers'] = 2
train_dataloader['dataset'] = dict(
    _delete_=True, type='CustomDataset', data_root={images!r}, ann_file='train.txt',
    pipeline=[dict(type='LoadImageFromFile'),
              dict(type='RandomCrop', crop_size=16, padding=2), dict(type='PackInputs')])
'''


def test_a_missing_image_ends_the_run_with_its_name(tmp_path: Path) -> None:
    images = tmp_path / 'images'
    images.mkdir()
    lines = []
    for index, item in enumerate(list(Digits('train', pipeline=[]))[:64]):
        Image.fromarray(item['img']).save(images / f'{index}.png')
        lines.append(f'{index}.png {item["gt_label"]}\n')
    (images / 'train.txt').write_text(''.join(lines))
    write_config(tmp_path, CONFIG + IMAGES, images=str(images))
    with training(tmp_path) as command:
        command.wait_until((tmp_path / 'out' / 'last_checkpoint').exists)
        (images / '17.png').rename(images / 'elsewhere')
        assert command.code() != 0
        assert re.search(r'Error: .*17\.png', last_words(command.output))
    assert 'epoch_1.pth' in checkpoints(tmp_path)
    (images / 'elsewhere').rename(images / '17.png')
    goes_on(tmp_path)


# Processes


def children(pid: int) -> list[int]:
    found = Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return [int(child) for child in found.split()]


def test_a_dead_worker_of_the_data_loader_ends_the_run(tmp_path: Path) -> None:
    write_config(tmp_path)
    # Workers that live on are there to be killed at any time.
    with training(tmp_path, '--cfg-options', 'train_dataloader.num_workers=2',
                  'train_dataloader.persistent_workers=True') as command:
        command.wait_until((tmp_path / 'out' / 'last_checkpoint').exists)
        worker = children(command.process.pid)[0]
        os.kill(worker, signal.SIGKILL)
        assert command.code() != 0
        # By torch's handler of signals or by its next look at the workers, whichever comes first.
        assert re.search(rf'DataLoader worker \(pid(\(s\))? {worker}\) (is killed|exited)',
                         last_words(command.output))
    assert 'epoch_1.pth' in checkpoints(tmp_path)
    goes_on(tmp_path)


def test_a_lost_rank_ends_the_others_and_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    words = ['bash', TOOLS / 'dist_train.sh', config, '2', '--work-dir', tmp_path / 'out']
    with Command(tmp_path, *words, PORT=port) as command:
        command.wait_until((tmp_path / 'out' / 'last_checkpoint').exists)
        ranks = {rank_of(pid): pid for pid in children(command.process.pid)}
        os.kill(ranks['1'], signal.SIGKILL)
        assert command.code(60) != 0
        assert re.search(r'rank\s*: 1 .*\n\s*exitcode\s*: -9', last_words(command.output))
    assert 'epoch_1.pth' in checkpoints(tmp_path)
    printed = succeeds(Command(tmp_path, *words, '--resume', PORT=port))
    assert re.search(r'resumed epoch: [1-3]', printed)
    assert 'epoch_4.pth' in checkpoints(tmp_path)


def rank_of(pid: int) -> str | None:
    variables = Path(f'/proc/{pid}/environ').read_bytes().decode().split('\0')
    return dict(line.partition('=')[::2] for line in variables).get('RANK')


# Numbers


BREAKS = CONFIG + '''
custom_imports = dict(imports=['parts_of_the_test'])
custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=[
    dict(type='CosineLoss', on='patch', weight=0.1),
    dict(type='BreaksLoss', on='patch', weight=0.1, name='breaks')])]
'''


def test_a_term_that_becomes_nan_ends_the_run_before_a_checkpoint_has_it(tmp_path: Path) -> None:
    write_config(tmp_path, BREAKS)
    with training(tmp_path) as command:
        assert command.code() != 0
        assert re.search(r"Error: (?=.*\bbreaks\b).*\bnan\b", last_words(command.output), re.I)
    found = checkpoints(tmp_path)
    assert found.keys() == {'epoch_1.pth'}
    assert all(value.isfinite().all() for value in found['epoch_1.pth']['state_dict'].values())
    # The term counts from the start of its process, and has an epoch to go.
    printed = succeeds(training(tmp_path, '--resume', '--cfg-options', 'train_cfg.max_epochs=2'))
    assert 'resumed epoch: 1,' in printed
