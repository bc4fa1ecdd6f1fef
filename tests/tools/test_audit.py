"""The audit as a user runs it: what it writes and prints, and what it says of bad input."""
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'analysis' / 'audit.py'
DEIT, SWIN = (ROOT / 'configs' / 'digits' / f'{name}-nano_digits.py' for name in ('deit', 'swin'))
OPTIONS = ('--num-images', 6, '--num-subsampled', 2, '--workers', 0)


def command(*args: object) -> list[str]:
    return [sys.executable, str(TOOL), *map(str, args)]


def audit(*args: object, options: tuple = OPTIONS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args, *options), capture_output=True, text=True, timeout=300)


def error(*args: object) -> str:
    ended = audit(*args)
    assert ended.returncode == 1 and 'Traceback' not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def test_two_models_side_by_side(tmp_path: Path) -> None:
    ended = audit(DEIT, '--beside', SWIN, '--names', 'first', 'second', '--out', tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert 'first\n' in ended.stdout and 'second\n' in ended.stdout
    assert ended.stdout.count('WARNING: random initial weights') == 2
    assert '6 of 6 images' in ended.stdout and str(tmp_path / 'audit.html') in ended.stdout
    content = json.loads((tmp_path / 'audit.json').read_text(), parse_constant=pytest.fail)
    assert [model['name'] for model in content['models']] == ['first', 'second']
    with open(tmp_path / 'audit.csv', newline='') as file:
        assert {row['model'] for row in csv.DictReader(file)} == {'first', 'second'}
    assert list((tmp_path / 'figures').glob('*.png')) and list((tmp_path / 'figures').glob('*.svg'))
    assert (tmp_path / 'diversity_first.py').is_file() and (tmp_path / 'audit.html').is_file()


def test_ctrl_c_still_writes_a_report(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(DEIT, '--batch-size', 1, '--num-images', 360, '--num-subsampled', 360, '--workers',
                1, '--out', tmp_path), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True)
    seen = ''
    while ': 3/360 images' not in seen:
        assert process.poll() is None, seen
        seen += process.stderr.read(1)
    os.killpg(process.pid, signal.SIGINT)  # to the worker too, as a terminal does
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and 'interrupted' in out and 'Traceback' not in err
    images = json.loads((tmp_path / 'audit.json').read_text())['images']
    assert images['interrupted'] and 3 <= images['measured'] < 360
    assert 'interrupted' in (tmp_path / 'audit.html').read_text().lower()


def test_a_cnn_is_refused(tmp_path: Path) -> None:
    assert 'no tap knows the backbone ResNet' in error(
        'mmpretrain::resnet/resnet18_8xb32_in1k.py', '--out', tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'images').mkdir()
    assert '--images' in error(DEIT, '--images', tmp_path / 'images', '--out', tmp_path / 'out')


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_image
    (tmp_path / 'images').mkdir()
    Image.fromarray(load_sample_image('china.jpg')).save(tmp_path / 'images' / 'china.jpg')
    whole = (tmp_path / 'images' / 'china.jpg').read_bytes()
    (tmp_path / 'images' / 'half.jpg').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'images' / 'notes.txt').touch()
    ended = audit(DEIT, '--images', tmp_path / 'images', '--out', tmp_path / 'out')
    assert ended.returncode == 0, ended.stderr
    assert 'skipped 1 other file (notes.txt)\n' in ended.stderr
    assert 'notes.txt' in (tmp_path / 'out' / 'audit.html').read_text()
    assert 'skipped half.jpg' in ended.stderr and '1 of 2 images' in ended.stdout
    assert 'half.jpg' in (tmp_path / 'out' / 'audit.html').read_text()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(2)}), tmp_path / 'other.pth')
    message = error(DEIT, tmp_path / 'other.pth', '--out', tmp_path / 'out')
    assert 'other.pth' in message and 'another architecture' in message


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    started = time.monotonic()
    message = error(DEIT, '--out', tmp_path / 'file' / 'out')
    assert str(tmp_path / 'file' / 'out') in message and '--out' in message
    assert time.monotonic() - started < 60  # before anything is measured


def test_an_unknown_model_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    assert 'timm:NAME' in error('no-such-model', '--out', tmp_path)


def test_three_words_for_a_model_are_refused(tmp_path: Path) -> None:
    ended = audit(DEIT, 'checkpoint.pth', 'other', '--out', tmp_path)
    assert ended.returncode == 2 and '--beside' in ended.stderr
