"""SafeCheckpointHook in whole runs whose writes fail."""
from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint

from mmdiverse.hooks import SafeCheckpointHook
from mmdiverse.registry import HOOKS

RUNS = count()


class Model(BaseModel):

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, inputs: Any, labels: Any, mode: str = 'tensor') -> Any:
        logits = self.linear(torch.stack(list(inputs)))
        loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels))
        return dict(loss=loss) if mode == 'loss' else logits


class Rising(BaseMetric):
    """A score that is better every time."""

    score = 0.

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict:
        self.score += 1
        return dict(score=np.float32(self.score), other=-self.score)


def build(work_dir: Path, epochs: int = 3, by_epoch: bool = True, hooks: tuple[Hook, ...] = (),
          resume: bool = False, kind: str = 'mmdiverse.SafeCheckpointHook',
          **checkpoint: Any) -> Runner:
    data = dict(dataset=[(torch.ones(4), 0)] * 3, batch_size=1, sampler=dict(type='DefaultSampler'))
    hook = dict(type=kind, interval=1, by_epoch=by_epoch, **checkpoint)
    loop = (dict(by_epoch=True, max_epochs=epochs) if by_epoch
            else dict(by_epoch=False, max_iters=epochs, val_interval=1))
    return Runner(
        Model(), str(work_dir), train_dataloader=data, val_dataloader=data, val_cfg=dict(),
        val_evaluator=Evaluator([Rising()]), train_cfg=loop, resume=resume,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), log_level='ERROR',
        default_hooks=dict(checkpoint=hook), custom_hooks=list(hooks), default_scope='mmengine',
        experiment_name=f'checkpoints_{next(RUNS)}')


def names(folder: Path) -> list[str]:
    """All but log folders and the dumped config."""
    return sorted(name for name in os.listdir(folder)
                  if not (folder / name).is_dir() and not name.endswith('.py'))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the writes of a backend's next checkpoints fail."""
    def fill() -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, 'fsync', fsync)
    return fill


class Fill(Hook):
    """Fills the disk before an epoch ends."""

    def __init__(self, fill: Any, epoch: int) -> None:
        self.fill, self.epoch = fill, epoch

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == self.epoch:
            self.fill()


def test_it_is_registered() -> None:
    assert HOOKS.get('SafeCheckpointHook') is SafeCheckpointHook
    assert issubclass(SafeCheckpointHook, CheckpointHook)


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('options', [
    dict(), dict(max_keep_ckpts=1), dict(max_keep_ckpts=2, save_best='score', rule='greater'),
    dict(max_keep_ckpts=1, save_best=['score', 'other'], rule=['greater', 'less'])],
    ids=['all', 'one', 'best', 'two best'])
def test_in_the_end_there_are_the_files_of_the_parent(tmp_path, by_epoch, options) -> None:
    found = []
    for kind in ('CheckpointHook', 'mmdiverse.SafeCheckpointHook'):
        folder = tmp_path / kind
        build(folder, by_epoch=by_epoch, kind=kind, **options).train()
        last = Path((folder / 'last_checkpoint').read_text()).name
        found.append((names(folder), last))
    assert found[0] == found[1]


def test_the_last_checkpoint_is_named_by_its_path(tmp_path) -> None:
    build(tmp_path, max_keep_ckpts=1).train()
    assert (tmp_path / 'last_checkpoint').read_text() == f'{tmp_path}/epoch_3.pth'
    assert list(tmp_path.rglob('last_checkpoint')) == [tmp_path / 'last_checkpoint']


@pytest.mark.parametrize(('kind', 'left'), [
    ('CheckpointHook', ['last_checkpoint']),
    ('mmdiverse.SafeCheckpointHook', ['epoch_2.pth', 'last_checkpoint'])])
def test_a_full_disk_does_not_take_the_only_checkpoint(tmp_path, full_disk, kind, left) -> None:
    runner = build(tmp_path, hooks=(Fill(full_disk, 2),), kind=kind, max_keep_ckpts=1)
    with pytest.raises(OSError, match='epoch_3.pth could not be written: No space left'):
        runner.train()
    assert names(tmp_path) == left
    assert (tmp_path / 'last_checkpoint').read_text() == f'{tmp_path}/epoch_2.pth'


def test_what_it_leaves_resumes(tmp_path, full_disk, monkeypatch) -> None:
    runner = build(tmp_path, hooks=(Fill(full_disk, 2),), max_keep_ckpts=1)
    with pytest.raises(OSError):
        runner.train()
    monkeypatch.undo()  # the disk has space again
    runner = build(tmp_path, resume=True, max_keep_ckpts=1)
    runner.train()
    assert names(tmp_path) == ['epoch_3.pth', 'last_checkpoint']


def test_the_former_best_stays_until_the_next_is_written(tmp_path, full_disk) -> None:
    class FillBeforeValidation(Hook):
        def before_val_epoch(self, runner: Runner) -> None:
            if runner.epoch == 2:
                full_disk()

    runner = build(tmp_path, hooks=(FillBeforeValidation(),), save_best='score', rule='greater')
    with pytest.raises(OSError, match='best_score_epoch_2.pth could not be written'):
        runner.train()
    assert 'best_score_epoch_1.pth' in names(tmp_path)
    load_checkpoint(Model(), str(tmp_path / 'best_score_epoch_1.pth'))


def test_a_full_disk_does_not_empty_last_checkpoint(tmp_path, monkeypatch) -> None:
    backend = type(get_file_backend('a'))
    put = backend.put

    def fail(self: Any, content: bytes, path: Path) -> None:
        if content.endswith(b'epoch_3.pth'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, content, path)

    monkeypatch.setattr(backend, 'put', fail)
    with pytest.raises(OSError):
        build(tmp_path, max_keep_ckpts=1).train()
    assert (tmp_path / 'last_checkpoint').read_text() == f'{tmp_path}/epoch_2.pth'
    assert names(tmp_path) == ['epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']


def test_a_best_checkpoint_written_anew_under_its_name_stays(tmp_path) -> None:
    runner = build(tmp_path, epochs=1, save_best='score', rule='greater')
    runner.message_hub.update_info('best_ckpt', f'{tmp_path}/./best_score_epoch_1.pth')
    (tmp_path / 'best_score_epoch_1.pth').touch()
    runner.train()
    load_checkpoint(Model(), str(tmp_path / 'best_score_epoch_1.pth'))


def test_validation_alone_needs_no_backend(tmp_path) -> None:
    build(tmp_path).val()
    assert names(tmp_path) == []


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_nothing_outside_its_folder_is_removed(tmp_path, kind) -> None:
    """MMEngine would: a checkpoint names the former best, and a hostile one names anything."""
    precious = tmp_path / 'precious'
    if kind == 'file':
        precious.write_text('thesis')
    else:
        precious.mkdir()
    runner = build(tmp_path / 'run', epochs=1, save_best='score', rule='greater')
    runner.message_hub.update_info('best_ckpt', str(precious))
    runner.train()
    assert precious.exists()
    assert 'best_score_epoch_1.pth' in names(tmp_path / 'run')


def test_out_dir_is_where_checkpoints_go(tmp_path) -> None:
    build(tmp_path / 'run', out_dir=str(tmp_path / 'out'), max_keep_ckpts=1).train()
    assert names(tmp_path / 'out' / 'run') == ['epoch_3.pth']
    note = tmp_path / 'run' / 'last_checkpoint'
    assert note.read_text() == f'{tmp_path}/out/run/epoch_3.pth'


def test_an_older_file_client_may_write(tmp_path) -> None:
    build(tmp_path, file_client_args=dict(backend='disk'), max_keep_ckpts=1).train()
    assert names(tmp_path) == ['epoch_3.pth', 'last_checkpoint']


class TestResuming:

    def test_a_run_without_checkpoints_starts(self, tmp_path) -> None:
        build(tmp_path, epochs=1, resume=True).train()
        assert 'epoch_1.pth' in names(tmp_path)

    @pytest.mark.parametrize('emptied', [False, True])
    def test_the_latest_is_found_where_the_process_was_killed_before_it_was_named(
            self, tmp_path, emptied) -> None:
        build(tmp_path, epochs=2).train()
        note = tmp_path / 'last_checkpoint'
        note.write_text('') if emptied else note.unlink()
        (tmp_path / 'epoch_9.pth').write_bytes(b'half')  # of a host without atomic writes
        runner = build(tmp_path, resume=True)
        runner.train()
        assert runner.iter == 9 and note.read_text() == f'{tmp_path}/epoch_3.pth'
        assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 9

    def test_an_empty_last_checkpoint_beside_none_is_named(self, tmp_path) -> None:
        tmp_path.joinpath('last_checkpoint').touch()
        with pytest.raises(FileNotFoundError, match='last_checkpoint is empty.*remove it'):
            build(tmp_path, resume=True).train()

    def test_a_checkpoint_that_is_gone_is_named_and_others_are_offered(self, tmp_path) -> None:
        build(tmp_path, epochs=2).train()
        (tmp_path / 'last_checkpoint').write_text('gone.pth')
        runner = build(tmp_path, resume=True)
        with pytest.raises(FileNotFoundError,
                           match='gone.pth, which does not exist.*epoch_2.pth, epoch_1.pth'):
            runner.train()
        assert runner.iter == 0

    def test_a_named_checkpoint_is_resumed_whatever_last_checkpoint_says(self, tmp_path) -> None:
        build(tmp_path, epochs=2).train()
        (tmp_path / 'last_checkpoint').write_text('')
        runner = build(tmp_path, resume=True)
        runner._load_from = f'{tmp_path}/epoch_2.pth'
        runner.train()
        assert (tmp_path / 'last_checkpoint').read_text() == f'{tmp_path}/epoch_3.pth'
