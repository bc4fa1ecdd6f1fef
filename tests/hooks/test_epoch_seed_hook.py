import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner
from mmpretrain.datasets.transforms import TRANSFORMS
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader

from mmdiverse.hooks import EpochSeedHook, epoch_seed_hook
from mmdiverse.hooks.epoch_seed_hook import seed_generators
from tests.runs import assert_resumes_as_uninterrupted, digits_config, train

SEEDED = dict(randomness=dict(seed=0))


def numbers() -> tuple[float, ...]:
    """One random number of each generator."""
    return random.random(), np.random.random(), torch.rand(()).item()


def drawn(seed: int, *key: int) -> tuple[float, ...]:
    seed_generators(seed, *key)
    return numbers()


class Logger:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def runner(loop: type = EpochBasedTrainLoop, seed: int | None = 0, epoch: int = 0,
           iteration: int = 0, cfg: dict | None = None, **loader: Any) -> SimpleNamespace:
    """What the hook sees of a runner; epochs have two iterations."""
    return SimpleNamespace(
        train_loop=object.__new__(loop), seed=seed, epoch=epoch, iter=iteration, logger=Logger(),
        cfg=Config(SEEDED if cfg is None else cfg),
        train_dataloader=DataLoader(range(8), batch_size=4, **loader))


@pytest.mark.parametrize('key', [(), (3, ), (3, 1)])
def test_same_seed_and_key_give_the_same_numbers_whatever_ran_before(key: tuple[int, ...]) -> None:
    first = drawn(7, *key)
    numbers()
    assert drawn(7, *key) == first


def test_seeds_epochs_ranks_and_workers_have_different_numbers() -> None:
    keys = [(), *((epoch, rank) for epoch in range(4) for rank in range(4)),
            *((epoch, 0, worker) for epoch in range(4) for worker in range(4))]
    # The last one's words are those of seed 1 with an epoch in front.
    seen = [drawn(seed, *key) for seed in (0, 1, 2, 1 + 2**32) for key in keys]
    for generator in zip(*seen):
        assert len(set(generator)) == len(generator)


def test_generators_do_not_follow_one_another() -> None:
    first, second, third = drawn(0, 0, 0)
    assert len({first, second, third}) == 3


def test_an_epoch_has_its_numbers_in_any_process() -> None:
    drawn_in = []
    for before in (0, 5):
        torch.rand(before)
        EpochSeedHook().before_train_epoch(runner(epoch=4))
        drawn_in.append(numbers())
    EpochSeedHook().before_train_epoch(runner(epoch=5))
    assert drawn_in[0] == drawn_in[1] != numbers()


@pytest.mark.parametrize('diff_rank_seed', [False, True])
def test_ranks_differ(diff_rank_seed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for rank in range(3):
        monkeypatch.setattr(epoch_seed_hook, 'get_rank', lambda rank=rank: rank)
        # MMEngine adds the rank to `runner.seed` itself under diff_rank_seed.
        EpochSeedHook().before_train_epoch(runner(seed=4 + rank * diff_rank_seed))
        seen.add(numbers())
    assert len(seen) == 3


def test_the_hosts_numbers_are_seeded_before_other_hooks_draw(tmp_path: Path) -> None:
    seen = []

    class Draw(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            seen.append(torch.rand(()).item())

    cfg = digits_config('vit-nano_digits', tmp_path, epochs=2, batches=1)
    cfg.custom_hooks = [dict(type='mmdiverse.EpochSeedHook')]
    built = Runner.from_cfg(cfg)
    built.register_hook(Draw(), priority='HIGH')
    built.train()
    expected = []
    for epoch in range(2):
        seed_generators(0, epoch, 0)
        expected.append(torch.rand(()).item())
    assert seen == expected


@pytest.mark.parametrize(('seed', 'cfg'), [
    (None, {}), (None, SEEDED), (5, dict(randomness=dict(seed=None))), (5, dict(randomness=None)),
    (5, dict(work_dir='out'))])
def test_a_missing_seed_is_refused(seed: int | None, cfg: dict) -> None:
    with pytest.raises(ValueError, match=r'set `randomness\.seed` in the config'):
        EpochSeedHook().before_train(runner(seed=seed, cfg=cfg))


def test_a_seed_of_zero_is_a_seed() -> None:
    EpochSeedHook().before_train(runner(seed=0, cfg=SEEDED))


def test_a_runner_that_was_built_without_a_config_is_believed() -> None:
    EpochSeedHook().before_train(runner(seed=5, cfg={}))


def test_a_run_that_counts_iterations_is_refused() -> None:
    with pytest.raises(ValueError, match=r'counts iterations alone.*`train_cfg\.by_epoch=True`'):
        EpochSeedHook().before_train(runner(IterBasedTrainLoop))


def test_persistent_workers_are_warned_of() -> None:
    run = runner(num_workers=1, persistent_workers=True)
    EpochSeedHook().before_train(run)
    assert '`train_dataloader.persistent_workers=False`' in run.logger.warnings[0]


@pytest.mark.parametrize('workers', [0, 2])
def test_nothing_is_warned_of_where_an_epoch_can_be_repeated(workers: int) -> None:
    run = runner(num_workers=workers, epoch=3, iteration=6)
    EpochSeedHook().before_train(run)
    assert run.logger.warnings == []


def test_a_start_in_the_middle_of_an_epoch_is_warned_of() -> None:
    run = runner(epoch=3, iteration=7)
    EpochSeedHook().before_train(run)
    warning, = run.logger.warnings
    assert 'epoch 3 and iteration 7' in warning and '`default_hooks.checkpoint.by_epoch=' in warning


def test_workers_are_seeded_after_what_the_config_does_in_them(
        monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    run = runner(num_workers=2, epoch=1, worker_init_fn=lambda worker: (
        started.append(worker), torch.manual_seed(0)))
    hook = EpochSeedHook()
    hook.before_train(run)
    hook.before_train_epoch(run)
    run.train_dataloader.worker_init_fn(1)
    assert started == [1] and numbers() == drawn(0, 1, 0, 1)


def test_the_data_loader_is_left_as_it_was() -> None:
    def init(worker: int) -> None:
        pass

    run = runner(num_workers=2, worker_init_fn=init)
    hook = EpochSeedHook()
    hook.before_train(run)
    for run.epoch in range(2):
        hook.before_train_epoch(run)
    hook.after_train(run)
    assert run.train_dataloader.worker_init_fn is init


@TRANSFORMS.register_module(name='NoiseOfTests')
class Noise:
    """Draws a number of every generator in the data loader."""

    def __call__(self, results: dict) -> dict:
        noise = sum(numbers())
        results['img'] = np.uint8(results['img'] * (noise % 1))
        return results


@pytest.mark.parametrize('build', [Runner, FlexibleRunner])
@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_run_equals_the_uninterrupted_one_with_everything_random(
        workers: int, build: type, tmp_path: Path) -> None:
    def config(name: str, **options: Any) -> Config:
        cfg = digits_config('deit-nano_diverse_digits', tmp_path / name, epochs=2, **options)
        cfg.model.backbone.drop_path_rate = 0.2
        cfg.train_dataloader.num_workers = workers
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            del loader.num_batch_per_epoch  # the FlexibleRunner has no such thing
            loader.dataset.indices = 24
        cfg.train_dataloader.dataset.pipeline.insert(0, dict(type='NoiseOfTests'))
        # In front, so that it shows that a later hook's numbers are none of its business.
        cfg.custom_hooks = [dict(type='mmdiverse.EpochSeedHook'), *cfg.custom_hooks]
        return cfg

    assert_resumes_as_uninterrupted(config, build)


def test_workers_that_start_anew_do_not_repeat_their_numbers(tmp_path: Path) -> None:
    seen = []

    class See(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None
                              ) -> None:
            seen.append(torch.stack(data_batch['inputs']))

    cfg = digits_config('vit-nano_digits', tmp_path, epochs=2, batches=1)
    cfg.train_dataloader.update(num_workers=1, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.train_dataloader.dataset.pipeline = [dict(type='NoiseOfTests'), dict(type='PackInputs')]
    cfg.custom_hooks = [dict(type='mmdiverse.EpochSeedHook')]
    built = Runner.from_cfg(cfg)
    built.register_hook(See())
    built.train()
    assert not torch.equal(*seen)


def test_a_run_without_a_seed_ends_before_its_first_step(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_digits', tmp_path)
    cfg.randomness = dict(seed=None)
    cfg.custom_hooks = [dict(type='mmdiverse.EpochSeedHook')]
    with pytest.raises(ValueError, match=r'randomness\.seed'):
        train(cfg)


def test_type_resolves_in_a_config_without_custom_imports() -> None:
    assert isinstance(HOOKS.build(dict(type='mmdiverse.EpochSeedHook')), EpochSeedHook)
