"""The hook that never gives up a checkpoint before the next one is written."""
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..checkpoint import AtomicLocalBackend, restore_last_checkpoint
from ..registry import HOOKS


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, in an order that survives ``kill -9`` and full disks.

    MMEngine's hook removes the checkpoint that ``max_keep_ckpts`` or ``save_best`` gives up before
    it writes the next one; with ``max_keep_ckpts=1`` a failing write leaves none. Here, removals
    wait until every new file and ``last_checkpoint`` are written, so the disk must hold one
    checkpoint more. The file ``last_checkpoint`` is replaced in one step.

    Only files in the hook's own folder are removed. MMEngine takes the path of the former best
    checkpoint from the file that it resumes, and would remove whatever that names.

    A run that resumes from its latest checkpoint finds it also where the process was killed before
    ``last_checkpoint`` named it; MMEngine would load ``''``, or start from scratch and overwrite
    what is there.

    Everything else, and all arguments, are MMEngine's.

    Raises:
        FileNotFoundError: If a run is to resume from a checkpoint that does not exist.

    Example:
        >>> default_hooks = dict(
        ...     checkpoint=dict(type='mmdiverse.SafeCheckpointHook', max_keep_ckpts=1))
    """

    def before_run(self, runner: Runner) -> None:
        """Find the latest checkpoint, if the run is to resume from it."""
        super().before_run(runner)
        if getattr(runner, '_resume', None) is not True or runner._load_from is not None \
                or runner._has_loaded:
            return
        folder = runner.work_dir if self.out_dir is None else os.path.join(
            self.out_dir, os.path.basename(runner.work_dir.rstrip(os.sep)))
        if is_main_process():
            pattern = re.sub(r'\{.*?\}', '*', self.filename_tmpl)
            if (found := restore_last_checkpoint(runner.work_dir, folder, pattern)) is not None:
                runner.logger.warning(f'`last_checkpoint` named none; resuming from {found}, the '
                                      'newest that is readable')
        barrier()  # every process reads the file

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save as the parent does, then remove."""
        with self._removing_last(runner) as runner:
            super().after_train_iter(runner, *args, **kwargs)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save as the parent does, then remove."""
        with self._removing_last(runner) as runner:
            super().after_train_epoch(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save as the parent does, then remove."""
        with self._removing_last(runner) as runner:
            super().after_val_epoch(runner, metrics)

    @contextmanager
    def _removing_last(self, runner: Runner) -> Iterator['_RunnerInLogDir']:
        if not hasattr(self, 'file_backend'):  # validation alone; the parent saves nothing
            yield runner
            return
        backend = self.file_backend
        self.file_backend = waiting = _WithoutRemovals(backend)
        try:
            yield _RunnerInLogDir(runner)
        finally:
            self.file_backend = backend
        if is_main_process():
            _publish_last_checkpoint(runner)
            self._remove(runner, waiting.removals)

    def _remove(self, runner: Runner, removals: list[tuple[str, str]]) -> None:
        best = [getattr(self, 'best_ckpt_path', None),
                *getattr(self, 'best_ckpt_path_dict', {}).values()]
        kept = {_place(path) for path in [self.last_ckpt, *best] if path}
        for method, path in removals:
            if _place(path) in kept:  # written anew under the same name
                continue
            if os.path.dirname(_place(path)) != _place(self.out_dir):
                runner.logger.info(f'{path} is kept: it is not in {self.out_dir}')
                continue
            getattr(self.file_backend, method)(path)


class _WithoutRemovals:
    """A storage backend that remembers what it should remove."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removals: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removals.append(('remove', str(path)))

    def rmtree(self, path: str) -> None:
        self.removals.append(('rmtree', str(path)))


class _RunnerInLogDir:
    """A runner as the parent hook sees it: with its log folder in place of its ``work_dir``.

    The parent writes nothing but ``last_checkpoint`` there, and opens it in place: a process that
    is killed in between would leave it empty.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    @property
    def work_dir(self) -> str:
        return self.runner.log_dir


def _publish_last_checkpoint(runner: Runner) -> None:
    note = Path(runner.log_dir, 'last_checkpoint')
    if note.exists():
        # Bytes, because MMEngine writes and reads it in the encoding of the locale.
        AtomicLocalBackend().put(note.read_bytes(), Path(runner.work_dir, note.name))
        note.unlink()


def _place(path: str) -> str:
    """One spelling of a path."""
    return path if '://' in path else os.path.realpath(path)
