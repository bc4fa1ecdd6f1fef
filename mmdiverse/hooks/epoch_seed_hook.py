"""The hook that makes a resumed run draw the random numbers of the uninterrupted one."""
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from ..registry import HOOKS
from ..spelling import counted


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds the random numbers of every training epoch by the run's seed and the epoch.

    MMEngine saves no random numbers in checkpoints, so a resumed run augments, mixes and drops
    paths otherwise than the uninterrupted one. This hook seeds the global generators of Python,
    numpy and torch (CPU and all devices) before each training epoch, from ``randomness.seed``,
    the number of the epoch and the rank. So an epoch's numbers do not depend on what ran before
    in the process, and a run resumed from the end of an epoch goes on as if nothing had happened:
    bit for bit on a CPU, and on a GPU as far as its kernels repeat themselves
    (``randomness.deterministic``). Ranks differ from each other, whatever
    ``randomness.diff_rank_seed`` says.

    Workers of the data loader that start anew in every epoch are seeded in the same way; MMEngine
    alone would give them the same numbers in every epoch. Workers that live on
    (``train_dataloader.persistent_workers=True``) cannot be seeded from here: the run starts with
    a warning, and what is augmented in them differs after resuming.

    Raises:
        ValueError: Before training, if the config sets no ``randomness.seed``, or the run counts
            iterations (``train_cfg.by_epoch=False``), which has no epochs to seed.

    Example:
        >>> randomness = dict(seed=0)
        >>> custom_hooks = [dict(type='mmdiverse.EpochSeedHook')]
    """

    # Ahead of hooks that may draw random numbers when an epoch begins.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._worker_init_fn: Callable[[int], None] | None = None

    def before_train(self, runner: Runner) -> None:
        """Check that epochs can be seeded, and say where they cannot be repeated."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError('EpochSeedHook seeds epochs, but this run counts iterations alone, '
                             'and would be seeded once; set `train_cfg.by_epoch=True`, or leave '
                             'the hook out of `custom_hooks`')
        # Without one, MMEngine draws a seed for the samplers anew when it resumes.
        unset = runner.cfg and (runner.cfg.get('randomness') or {}).get('seed') is None
        if runner.seed is None or unset:
            raise ValueError('EpochSeedHook needs a seed: set `randomness.seed` in the config, '
                             'such as `randomness=dict(seed=0)`')
        loader = runner.train_dataloader
        self._worker_init_fn = loader.worker_init_fn
        if loader.persistent_workers:
            runner.logger.warning(
                'EpochSeedHook cannot seed the workers of the data loader, which live longer than '
                'an epoch: a resumed run augments otherwise than the uninterrupted one. Set '
                '`train_dataloader.persistent_workers=False` if it must not')
        if runner.iter != runner.epoch * len(loader):
            runner.logger.warning(
                f'EpochSeedHook: the run goes on at epoch {runner.epoch} and iteration '
                f'{runner.iter}, which is not the end of an epoch of '
                f'{counted(len(loader), "iteration")}, so '
                'it will differ from the uninterrupted one. Save checkpoints by epoch '
                '(`default_hooks.checkpoint.by_epoch=True`), and resume with as many iterations '
                'in an epoch')

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed everything for this epoch."""
        rank = get_rank()
        seed_generators(runner.seed, runner.epoch, rank)
        loader = runner.train_dataloader
        if loader.num_workers > 0 and not loader.persistent_workers:
            loader.worker_init_fn = partial(_init_worker, init=self._worker_init_fn,
                                            seed=runner.seed, key=(runner.epoch, rank))

    def after_train(self, runner: Runner) -> None:
        """Leave the data loader as it was."""
        runner.train_dataloader.worker_init_fn = self._worker_init_fn


def seed_generators(seed: int, *key: int) -> None:
    """Seed the global generators of Python, numpy and torch, on the CPU and on all devices.

    Each gets a number of its own, mixed by numpy's ``SeedSequence``: neighbouring seeds, epochs or
    ranks have nothing in common, and different ones never fall together as their sums would.

    Args:
        seed (int): The seed of the run, not negative.
        *key (int): What distinguishes this use of it, such as epoch and rank.
    """
    for_python, for_torch, *for_numpy = map(
        int, np.random.SeedSequence(seed, spawn_key=key).generate_state(4, np.uint64))
    random.seed(for_python)
    torch.manual_seed(for_torch)
    np.random.seed([word % 2**32 for word in for_numpy])


def _init_worker(worker: int, init: Callable[[int], None] | None, seed: int,
                 key: tuple[int, ...]) -> None:
    """Start a worker of the data loader: by what the config says first, then seed it."""
    if init is not None:
        init(worker)
    seed_generators(seed, *key, worker)
