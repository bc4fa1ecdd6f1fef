"""The launch tools: arguments, errors before a run starts, real runs in one and two processes."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmdiverse import compat, launch

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / 'tools'

CONFIG = '''
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer', img_size=16, patch_size=8,
        arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)),
    head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=8,
              loss=dict(type='CrossEntropyLoss')))
data_preprocessor = dict(num_classes=2, mean=[128] * 3, std=[64] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(type='CustomDataset', data_prefix={images!r}, pipeline=pipeline)
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dataset,
                        sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dataset,
                      sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
default_scope = 'mmpretrain'
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
'''


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of MMPretrain's own pieces, on sixteen random images in two folders."""
    rng = np.random.default_rng(0)
    for label in ('cat', 'dog'):
        folder = tmp_path / 'images' / label
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f'{index}.png')
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG.replace('{images!r}', repr(str(tmp_path / 'images'))))
    return path


def start(command: list[str | Path], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    # A hidden GPU keeps the test what it says on machines that have one.
    environment = {**os.environ, 'PYTHONPATH': path, 'PYTHON': sys.executable,
                   'CUDA_VISIBLE_DEVICES': '', **env}
    return subprocess.run([str(word) for word in command], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=300)


def call(monkeypatch: pytest.MonkeyPatch, script: str, *words: object) -> None:
    monkeypatch.setattr(sys, 'argv', [script, *(str(word) for word in words)])
    launch.run(script)


@pytest.fixture
def host_argv(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Receives the arguments that MMPretrain's script would be started with."""
    received: list[str] = []
    run_path = launch.runpy.run_path

    def stop_short(path: str, run_name: str) -> dict:
        if run_name != '__main__':
            return run_path(path, run_name=run_name)
        received[:] = sys.argv[1:]
        return {}

    monkeypatch.setattr(launch.runpy, 'run_path', stop_short)
    return received


def test_a_plain_config_and_its_arguments_reach_mmpretrain_unchanged(
        config, tmp_path, monkeypatch, host_argv):
    words = [str(config), '--amp', '--work-dir', str(tmp_path / 'out'), '--cfg-options', 'a=1']
    call(monkeypatch, 'train.py', *words)
    assert host_argv == words


def test_diversity_hands_over_a_config_kept_in_the_work_dir(
        config, tmp_path, monkeypatch, host_argv):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', config, '--diversity', 'patch', '--amp')
    written = Path('work_dirs', 'tiny_patch', 'tiny_patch.py')
    assert host_argv == [str(written), '--amp']
    assert [path.name for path in written.parent.iterdir()] == ['tiny_patch.py']
    hooks = Config.fromfile(written).custom_hooks
    assert [hook.type for hook in hooks] == ['mmdiverse.DiversityHook']


def test_mixing_has_a_name_and_a_default_work_dir_of_its_own(
        config, tmp_path, monkeypatch, host_argv):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', config, '--diversity', 'all', '--mixing')
    assert host_argv == [str(Path('work_dirs', 'tiny_all_mixing', 'tiny_all_mixing.py'))]


def test_a_packaged_config_of_mmpretrain_can_be_diversified(tmp_path, monkeypatch, host_argv):
    call(monkeypatch, 'train.py', 'mmpretrain::deit/deit-small_4xb256_in1k.py',
         '--diversity', 'all', '--work-dir', tmp_path)
    cfg = Config.fromfile(host_argv[0])
    assert cfg.model.backbone.arch == 'deit-small'
    assert cfg.custom_hooks[-1].type == 'mmdiverse.DiversityHook'


def test_the_config_is_replaced_where_the_host_reads_it(tmp_path, monkeypatch, host_argv):
    name = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'test.py', '--out', name, name, 'weights.pth', '--work-dir', 'out')
    shipped = str(launch.config_path(name))
    assert host_argv == ['--out', name, shipped, 'weights.pth', '--work-dir', 'out']


def test_cfg_options_of_the_user_survive_ours():
    argv = ['c.py', '--cfg-options', 'a=1', 'b=2', '--amp']
    added = launch._add_cfg_options(argv, ['model_wrapper_cfg.device_ids=None'])
    assert added == [*argv, '--cfg-options', 'a=1', 'b=2', 'model_wrapper_cfg.device_ids=None']


def test_packaged_configs_are_found_with_the_types_of_their_own_scope():
    path = launch.config_path('mmdiverse::digits/deit-nano_diverse_digits.py')
    assert path.is_file() and '_scope_' not in Config.fromfile(path).model


@pytest.mark.parametrize(('words', 'message'), [
    (['missing.py'], "config 'missing.py' does not exist"),
    (['mmpretrain::deit/missing.py'], "config 'mmpretrain::deit/missing.py' does not exist (no"),
    (['nobody::deit/missing.py'], "the package 'nobody' is not installed"),
    (['CONFIG', '--diversity', 'missing'], "--diversity missing: no diversity fragment 'missing'"),
    (['CONFIG', '--mixing'], '--mixing goes with --diversity: state a fragment, one of all'),
    (['CONFIG', '--work-dir', 'CONFIG/sub'], 'pass a writable one with --work-dir'),
])
def test_errors_before_the_run_are_one_line_that_says_what_to_change(
        words, message, config, monkeypatch, host_argv):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', *(word.replace('CONFIG', str(config)) for word in words))
    assert message in stopped.value.code and '\n' not in stopped.value.code
    assert host_argv == []


def test_an_unknown_fragment_lists_the_known_ones(config, monkeypatch, host_argv):
    with pytest.raises(SystemExit, match='all.*attention.*official.*patch.*weight'):
        call(monkeypatch, 'train.py', config, '--diversity', 'missing')


def test_a_work_dir_that_cannot_be_written_is_named(config, monkeypatch, host_argv):
    blocked = config / 'sub'  # below a file nobody can make a folder, root included
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'test.py', config, 'weights.pth', '--work-dir', blocked)
    assert repr(str(blocked)) in stopped.value.code and '--work-dir' in stopped.value.code


@pytest.mark.parametrize(('script', 'own'), [('train.py', True), ('test.py', False)])
def test_help_shows_both_sets_of_options(script, own, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, script, '--help')
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert '--cfg-options' in text and 'mmdiverse::dir/file.py' in text
    assert ('--diversity FRAGMENT' in text) is own


def test_a_host_without_its_tools_is_an_error_that_names_them():
    with pytest.raises(FileNotFoundError, match=r'tools/nothing\.py'):
        launch.host_script('nothing.py')


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_shell_launchers_without_arguments_show_their_usage(script, tmp_path):
    ended = start(['bash', TOOLS / f'{script}.sh'], tmp_path)
    assert ended.returncode == 2
    assert f'tools/{script}.sh' in ended.stderr and ended.stdout == ''


@pytest.mark.parametrize(('script', 'words', 'tool'), [
    ('slurm_train', ['cpu', 'job', 'c.py', 'out dir', '--amp'],
     ['train.py', 'c.py', '--work-dir', 'out dir', '--launcher', 'slurm', '--amp']),
    ('slurm_test', ['cpu', 'job', 'c.py', 'w.pth', '--tta'],
     ['test.py', 'c.py', 'w.pth', '--launcher', 'slurm', '--tta']),
])
def test_slurm_launchers_build_the_srun_command(script, words, tool, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    srun.chmod(0o755)
    ended = start(['bash', TOOLS / f'{script}.sh', *words], tmp_path, GPUS='4', GPUS_PER_NODE='2',
                  SRUN_ARGS='--time 5', PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    lines = ended.stdout.splitlines()
    assert lines[:4] == ['--partition', 'cpu', '--job-name', 'job']
    assert lines[lines.index('--ntasks') + 1] == '4'
    assert lines[lines.index('--time') + 1] == '5'
    at = lines.index('-u') + 1
    assert [Path(lines[at]).name, *lines[at + 1:]] == tool


def test_two_processes_train_and_test_without_a_gpu(config, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    ended = start(['bash', TOOLS / 'dist_train.sh', config, '2', '--diversity', 'patch',
                   '--work-dir', 'out'], tmp_path, PORT=port)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert 'GPU number: 2' in ended.stdout
    assert 'Epoch(train) [1][2/2]' in ended.stdout  # 16 images / (2 processes x 4)
    ended = start(['bash', TOOLS / 'dist_test.sh', 'out/tiny_patch.py', 'out/epoch_1.pth', '2',
                   '--work-dir', 'tested'], tmp_path, PORT=port)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert 'accuracy/top1' in ended.stdout


def test_options_for_a_wrapper_that_the_config_chose():
    ours = Config(dict(model_wrapper_cfg=dict(find_unused_parameters=True)))
    assert compat.cpu_wrapper_options(ours) == ['model_wrapper_cfg.device_ids=None']
    other = Config(dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')))
    assert compat.cpu_wrapper_options(other) == []
