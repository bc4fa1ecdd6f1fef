"""What a user does from the command line, on the embedded digits."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdiverse.launch import host_script
from tests.runs import DIGITS

TOOLS = Path(__file__).parents[1] / 'tools'
OPTIONS = ['train_dataloader.num_batch_per_epoch=6', 'default_hooks.logger.interval=3',
           'default_hooks.checkpoint.max_keep_ckpts=9']


def run(*command: object, **options) -> str:
    """Run a Python script and return what it printed; its failure fails the test."""
    done = subprocess.run([sys.executable, *map(str, command)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def validation_accuracies(work_dir: Path) -> list[float]:
    """Accuracy after each validation, over all starts of a run."""
    lines = [line for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
             for line in path.read_text().splitlines()]
    return [entry['accuracy/top1'] for entry in map(json.loads, lines)
            if 'accuracy/top1' in entry]


@pytest.mark.parametrize('name', ['deit-nano', 'swin-nano'])
def test_mmpretrains_own_script_trains_and_its_checkpoint_needs_no_mmdiverse(
        name: str, tmp_path: Path) -> None:
    run(host_script('train.py'), DIGITS / f'{name}_diverse_digits.py', '--work-dir', tmp_path,
        '--cfg-options', *OPTIONS, 'train_cfg.max_epochs=1', cwd=tmp_path)
    # A None in sys.modules makes every import of the package fail, as if it were not installed.
    # The checkpoint is our own: reading it without weights_only leaves out what today's torch
    # breaks in the hosts themselves, which is not the question here.
    run('-c', f"""
import sys
sys.modules['mmdiverse'] = None
import torch
from mmengine.config import Config
from mmpretrain.apis import get_model
from mmpretrain.registry import MODELS
from mmengine.registry import init_default_scope
init_default_scope('mmpretrain')
model = MODELS.build(Config.fromfile({str(DIGITS / f"{name}_digits.py")!r}).model)
checkpoint = torch.load({str(tmp_path / 'epoch_1.pth')!r}, weights_only=False)
print(model.load_state_dict(checkpoint['state_dict'], strict=True))
model.eval()(torch.zeros(1, 3, 16, 16))
""", cwd=tmp_path)


def test_run_that_was_killed_resumes_and_tests_as_it_validated(tmp_path: Path) -> None:
    config = DIGITS / 'deit-nano_diverse_digits.py'
    command = [TOOLS / 'train.py', config, '--work-dir', tmp_path, '--resume', '--cfg-options',
               *OPTIONS, 'train_cfg.max_epochs=4']
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (tmp_path / 'epoch_2.pth').exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = len(validation_accuracies(tmp_path))

    log = run(*command)
    assert re.search(r'resumed epoch: [12],', log)
    assert (tmp_path / 'epoch_4.pth').exists()
    accuracies = validation_accuracies(tmp_path)
    assert len(accuracies) > first

    log = run(TOOLS / 'test.py', config, tmp_path / 'epoch_4.pth', '--work-dir', tmp_path / 'test')
    tested = float(re.findall(r'accuracy/top1: ([0-9.]+)', log)[-1])
    assert tested == pytest.approx(accuracies[-1], abs=1e-4)
