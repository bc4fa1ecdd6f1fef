"""What an installed mmdiverse does without a clone: `python tests/smoke_wheel.py` after an install.

Everything runs in a temporary folder, and nothing is imported from the clone.
"""
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import mmpretrain
import torch
from mmengine.config import Config

import mmdiverse

NAME = 'deit-nano_diverse_digits'
MIM = Path(mmdiverse.__file__).parent / '.mim'
CONFIG = MIM / 'configs' / 'digits' / f'{NAME}.py'
HOST_TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'


def run(script: Path, *words: str | Path) -> str:
    """Runs a script; returns what it logged."""
    ended = subprocess.run([sys.executable, script, *words], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    if ended.returncode:
        sys.exit(f'{script} failed:\n{ended.stdout}')
    return ended.stdout


def check(true: bool, what: str) -> None:
    """Prints what is true, or stops."""
    if not true:
        sys.exit(f'FAILED: {what}')
    print(f'passed: {what}')


def main() -> None:
    """Trains, tests and looks up the nano DeiT of the digits."""
    check(CONFIG.is_file() and not (MIM / 'configs').is_symlink(),
          f'{MIM} was installed, and is not linked to a clone')

    Path('inherits.py').write_text(f"_base_ = ['mmdiverse::digits/{NAME}.py']\n"
                                   'train_cfg = dict(max_epochs=1)\n')
    log = run(MIM / 'tools' / 'train.py', 'inherits.py', '--work-dir', 'ours')
    check('loss_patch_cosine' in log and Path('ours/epoch_1.pth').is_file(),
          "the installed train.py trains an epoch of a config that inherits 'mmdiverse::'")
    log = run(MIM / 'tools' / 'test.py', CONFIG, 'ours/epoch_1.pth', '--work-dir', 'ours')
    check('accuracy/top1' in log, 'the installed test.py tests what it trained')
    log = run(HOST_TOOLS / 'train.py', CONFIG, '--work-dir', 'host', '--cfg-options',
              'train_cfg.max_epochs=1', 'train_dataloader.num_batch_per_epoch=10')
    check('loss_patch_cosine' in log and Path('host/epoch_1.pth').is_file(),
          "MMPretrain's own train.py trains what has types of 'mmdiverse.'")

    Path('new_style.py').write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from mmdiverse.configs.deit.deit_small_diverse_8xb128_in1k import *\n')
    terms = Config.fromfile('new_style.py').custom_hooks[-1].terms
    check(len(terms) == 4, 'a config in new style inherits one of the package')

    check(NAME in mmdiverse.list_models('*diverse*'), 'list_models knows the models')
    model = mmdiverse.get_model(NAME, pretrained='ours/epoch_1.pth')
    weights = torch.load('ours/epoch_1.pth')['state_dict']
    check(all(torch.equal(weights[key], value) for key, value in model.state_dict().items()),
          'get_model builds a model by its name, with the weights trained above')
    check(type(mmpretrain.get_model(NAME)) is type(model), "and so does MMPretrain's get_model")


if __name__ == '__main__':
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        main()
