"""Small training runs on the embedded digits, for tests that need a whole Runner."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

CONFIGS = Path(__file__).parents[1] / 'configs'
DIGITS = CONFIGS / 'digits'


def digits_config(name: str, work_dir: Path, epochs: int = 1, batches: int = 3,
                  **options: Any) -> Config:
    """A config of configs/digits cut down to a few batches."""
    cfg = Config.fromfile(DIGITS / f'{name}.py')
    cfg.work_dir = str(work_dir)
    cfg.train_cfg.max_epochs = epochs
    cfg.train_dataloader.batch_size = 8
    cfg.train_dataloader.num_batch_per_epoch = batches
    cfg.val_dataloader.num_batch_per_epoch = 1
    cfg.experiment_name = work_dir.name
    cfg.merge_from_dict(options)
    return cfg


def folder_config(folder: Path, work_dir: Path, pipeline: list[dict], **backbone: Any) -> Config:
    """A tiny ViT that is tested on the images of a folder without classes, eight at a time."""
    dataset = dict(type='CustomDataset', data_root=str(folder), with_label=False,
                   pipeline=[*pipeline, dict(type='PackInputs')])
    return Config(dict(
        default_scope='mmpretrain', work_dir=str(work_dir), log_level='WARNING',
        experiment_name=f'{work_dir.name}{torch.rand(()).item()}',
        model=dict(
            type='ImageClassifier',
            backbone={**dict(type='VisionTransformer', img_size=32, patch_size=8, arch=dict(
                embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)), **backbone},
            head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16)),
        data_preprocessor=dict(mean=[127.] * 3, std=[60.] * 3, to_rgb=True),
        test_dataloader=dict(dataset=dataset, batch_size=8, num_workers=0,
                             sampler=dict(type='DefaultSampler', shuffle=False)),
        test_cfg=dict(), test_evaluator=[dict(type='mmdiverse.RedundancyMetric', per_layer=True)],
        custom_hooks=[dict(type='mmdiverse.RedundancyHook')]))


def train(cfg: Config, build: type = Runner) -> Runner:
    """Run a config to its end."""
    runner = build.from_cfg(cfg)
    runner.train()
    return runner


def same_state(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items())


class Interrupted(Exception):
    """Ends a run in the middle."""


class Interrupt(Hook):
    """Stops a run before its second epoch."""

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 1:
            raise Interrupted


def assert_resumes_as_uninterrupted(config: Callable[..., Config], build: type = Runner) -> None:
    """A run that stops after an epoch and resumes must equal the whole one bit for bit.

    Args:
        config: Makes the config of a run of more epochs, from its name and further options.
        build: The runner.
    """
    whole = train(config('whole'), build)
    interrupted = build.from_cfg(config('parts'))
    interrupted.register_hook(Interrupt())
    with pytest.raises(Interrupted):
        interrupted.train()
    cfg = config('parts', resume=True)
    cfg.experiment_name = 'resumed'
    resumed = train(cfg, build)
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())
