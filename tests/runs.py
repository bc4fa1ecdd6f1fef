"""Small training runs on the embedded digits, for tests that need a whole Runner."""
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
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


def train(cfg: Config) -> Runner:
    """Run a config to its end."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def same_state(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items())
