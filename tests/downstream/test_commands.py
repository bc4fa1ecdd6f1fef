"""The commands of README.md and docs/downstream.md that need MMDetection run."""
import shlex
from pathlib import Path

import pytest
import torch

from mmdiverse.config import load_config

from ..test_commands import DOCUMENTS, ROOT, Shortened, documented, run
from .test_configs import build, recipe_of, scenes, small  # noqa: F401  a fixture

COMMANDS = sorted({command for name in ('README', 'downstream')
                   for command in documented(DOCUMENTS[name])})
CHECKS = [command for command in COMMANDS if '/check_transfer.py ' in command]
LAUNCHES = [command for command in COMMANDS
            if command.startswith('bash tools/dist_train.sh configs/downstream/')]


def test_there_are_commands() -> None:
    assert CHECKS and LAUNCHES


@pytest.mark.parametrize('command', CHECKS)
def test_every_weight_arrives(command: str, tmp_path: Path) -> None:
    config, checkpoint = shlex.split(command)[2:]
    which, _, name = checkpoint.rpartition(':')
    weights = build(recipe_of(load_config(ROOT / config)).model, 'mmpretrain').state_dict()
    content = dict(state_dict=weights)
    if which:
        content['ema_state_dict'] = {f'module.{key}': value for key, value in weights.items()}
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, tmp_path / name)
    assert ' loaded, ' in run(command, tmp_path)


@pytest.mark.parametrize('command', LAUNCHES)
def test_a_detector_trains_on_several_processes(
        command: str, scenes: Path, tmp_path: Path) -> None:  # noqa: F811
    config = shlex.split(command)[2]
    small(ROOT / config, scenes, tmp_path).dump(tmp_path / 'config.py')
    printed = run(command, tmp_path, Shortened('--no-validate', {config: 'config.py', '8': '2'}))
    assert 'GPU number: 2' in printed and 'loss_mask' in printed
