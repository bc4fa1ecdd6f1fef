"""The launch tools: arguments, errors before a run starts, real runs in one and two processes."""
from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmdiverse import compat, launch
from mmdiverse.launch import Processes
from tests.runs import DIGITS

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


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for every class of ImageNet, where MMPretrain's configs look for it."""
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        for label in range(1000):
            (tmp_path / 'data' / 'imagenet' / split / f'n{label:08}').mkdir(parents=True)
    return tmp_path / 'data' / 'imagenet'


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


def test_a_packaged_config_of_mmpretrain_can_be_diversified(
        tmp_path, imagenet, monkeypatch, host_argv):
    call(monkeypatch, 'train.py', 'mmpretrain::deit/deit-small_4xb256_in1k.py',
         '--diversity', 'all', '--work-dir', tmp_path)
    cfg = Config.fromfile(host_argv[0])
    assert cfg.model.backbone.arch == 'deit-small'
    assert cfg.custom_hooks[-1].type == 'mmdiverse.DiversityHook'


def test_the_config_is_replaced_where_the_host_reads_it(imagenet, monkeypatch, host_argv):
    name = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
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
    (['CONFIG', '--diversity', 'patch', '--diversity=weight'],
     '--diversity is given 2 times (patch, weight), but takes one fragment: to have the terms of'),
    (['CONFIG', '--cfg-options', 'custom_hooks.type=EMAHook'], '`custom_hooks` must be a list of'),
])
def test_errors_before_the_run_are_one_line_that_says_what_to_change(
        words, message, config, monkeypatch, host_argv):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', *(word.replace('CONFIG', str(config)) for word in words))
    assert message in stopped.value.code and '\n' not in stopped.value.code
    assert host_argv == []


@pytest.mark.parametrize('words', [[], ['--diversity', 'patch']])
def test_hooks_that_are_no_list_are_refused(words, config, monkeypatch, host_argv):
    config.write_text(config.read_text() + "custom_hooks = dict(type='EMAHook')\n")
    with pytest.raises(SystemExit, match='`custom_hooks` must be a list of configs of hooks, but '
                       r"is a dict with the keys \['type'\]; write `custom_hooks="):
        call(monkeypatch, 'train.py', config, *words)
    assert host_argv == []


@pytest.mark.parametrize('script', ['train.py', 'test.py'])
def test_a_folder_that_is_no_class_is_refused(script, config, monkeypatch, host_argv):
    (config.parent / 'images' / '.ipynb_checkpoints').mkdir()
    loader = script.removesuffix('.py')
    with pytest.raises(SystemExit, match=rf'`{loader}_dataloader.dataset`: every folder in '
                       r"\S+images is taken for a class, but '.ipynb_checkpoints' is none; remove"):
        call(monkeypatch, script, config, *(['weights.pth'] if script == 'test.py' else []))
    assert host_argv == []


def test_an_unknown_fragment_lists_the_known_ones(config, monkeypatch, host_argv):
    with pytest.raises(SystemExit, match='all.*attention.*official.*patch.*weight'):
        call(monkeypatch, 'train.py', config, '--diversity', 'missing')


SWIN = '''
model = dict(
    _delete_=True, type='ImageClassifier',
    backbone=dict(type='SwinTransformer', img_size=16, patch_size=(2, 2), window_size=4,
                  arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 2]), out_indices=(1, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=16,
              loss=dict(type='CrossEntropyLoss')))
'''


def child(config: Path, text: str, name: str = 'child.py') -> Path:
    path = config.parent / name
    path.write_text(f'_base_ = [{str(config)!r}]\n{text}\n')
    return path


@pytest.mark.parametrize('fragment', ['all', 'patch'])
def test_layers_of_two_stages_are_refused_with_the_fragment_to_take(
        fragment, config, tmp_path, monkeypatch, host_argv):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', child(config, SWIN), '--diversity', fragment)
    assert stopped.value.code == (
        f"--diversity {fragment}: DiversityHook term 'patch_contrastive': ContrastiveLoss compares "
        "two layers with equal tokens, but at layer 'embed' a token stands for 2 x 2 pixels, and "
        'at layer 3 for 4 x 4; change `layers` of this term (in a Swin, stay within one stage: '
        'take the fragment swin or swin_patch, as by `--diversity swin`)')
    assert host_argv == [] and not (tmp_path / 'work_dirs').exists()


def test_a_swin_is_mixed_whatever_the_form_of_its_patch_size(
        config, tmp_path, monkeypatch, host_argv):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', child(config, SWIN), '--diversity', 'swin', '--mixing')
    cfg = Config.fromfile(host_argv[0])
    assert cfg.data_preprocessor.patch_size == 4 and cfg.model.neck is None


@pytest.mark.parametrize(('text', 'message'), [
    ("terms=[dict(type='CosineLoss', on='patch', layers=7, weight=1.)]",
     r'DiversityHook terms[0] (patch_cosine): '),
    ("terms=[dict(type='ContrastiveLoss', on='patch', weight=-1.)]",
     'DiversityHook terms[0] (ContrastiveLoss): `weight` must be finite and not negative'),
])
def test_terms_of_the_config_that_do_not_fit_are_refused_before_the_run(
        text, message, config, tmp_path, monkeypatch, host_argv):
    hooks = f"custom_hooks = [dict(type='mmdiverse.DiversityHook', priority='LOW', {text})]"
    path, out = child(config, hooks), tmp_path / 'out'
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', path, '--work-dir', out)
    assert stopped.value.code.startswith(message) and '\n' not in stopped.value.code
    call(monkeypatch, 'test.py', path, 'weights.pth', '--work-dir', out)
    assert host_argv  # which has no terms


def test_terms_inherited_from_a_package_reach_the_run(config, tmp_path, monkeypatch, host_argv):
    path = config.parent / 'inherited.py'
    path.write_text("_base_ = ['mmdiverse::digits/deit-nano_digits.py', "
                    "'mmdiverse::_base_/diversity/all.py']\n"
                    'custom_hooks = [_base_.diversity]\n')
    call(monkeypatch, 'train.py', path, '--work-dir', tmp_path / 'out')
    assert host_argv[0] == str(path)


def test_hooks_that_are_no_list_are_refused_before_the_run(
        config, tmp_path, monkeypatch, host_argv):
    path = child(config, "custom_hooks = dict(type='EMAHook')")
    with pytest.raises(SystemExit, match='`custom_hooks` must be a list of'):
        call(monkeypatch, 'train.py', path, '--work-dir', tmp_path / 'out')


@pytest.mark.parametrize(('text', 'message'), [
    ("type='DiversityHook', terms=[]",
     "`custom_hooks[0]`: there is no hook 'DiversityHook'; write type='mmdiverse.DiversityHook'"),
    ("type='DiversityHok', terms=[]",
     "`custom_hooks[0]`: there is no hook 'DiversityHok'; write type='mmdiverse.DiversityHook'"),
    ("type='mmdiverse.DiversityHok', terms=[]",
     "mmdiverse has no hook 'DiversityHok'; did you mean 'mmdiverse.DiversityHook'?"),
    ("type='mmdiverse.DiversityHook', term=[]",
     "`custom_hooks[0]`: DiversityHook has no option `term`; did you mean 'terms'?"),
    ("type='mmdiverse.DiversityHook', terms=[], zzz=1",
     "`custom_hooks[0]`: DiversityHook has no option `zzz`; it has ['terms', "),
])
def test_misspelt_hooks_of_mmdiverse_are_one_line_before_the_run(
        text, message, config, tmp_path, monkeypatch, host_argv):
    path = child(config, f'custom_hooks = [dict({text})]')
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', path, '--work-dir', tmp_path / 'out')
    assert stopped.value.code.startswith(message) and '\n' not in stopped.value.code
    assert host_argv == []


@pytest.mark.parametrize('text', ["type='EMAHook'", "type='mmpretrain.EMAHook', anything=1",
                                  "type='SomebodysHook', term=1", 'type=EMAHook'])
def test_hooks_of_others_are_left_to_mmengine(text, config, tmp_path, monkeypatch, host_argv):
    path = child(config, f'from mmengine.hooks import EMAHook\ncustom_hooks = [dict({text})]')
    call(monkeypatch, 'train.py', path, '--work-dir', tmp_path / 'out')
    assert host_argv


def test_what_mixing_cannot_keep_is_named_in_one_line(config, tmp_path, monkeypatch, host_argv):
    path = child(config, 'model = dict(head=dict(loss=dict(class_weight=[1., 20.])))')
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', path, '--diversity', 'all', '--mixing')
    assert stopped.value.code == (
        '--diversity all: patch-level mixing replaces a `model.head.loss` of type CrossEntropyLoss,'
        " or LabelSmoothLoss with mode='original', and cannot keep `model.head.loss.class_weight` "
        '([1.0, 20.0]): leave it out, or train without `--mixing`')
    call(monkeypatch, 'train.py', path, '--diversity', 'all', '--work-dir', tmp_path / 'out')
    assert Config.fromfile(host_argv[0]).model.head.loss.class_weight == [1., 20.]


def test_terms_that_are_replaced_are_counted(config, tmp_path, monkeypatch, host_argv, capsys):
    path = child(config, 'custom_hooks = [dict(type="mmdiverse.DiversityHook", terms=['
                 'dict(type="CosineLoss", on="patch", weight=1.),'
                 'dict(type="CosineLoss", on="attention", weight=1.)])]')
    call(monkeypatch, 'train.py', path, '--diversity', 'patch', '--work-dir', tmp_path / 'out')
    assert ("mmdiverse: --diversity patch replaces the 2 terms of the config's DiversityHook; to "
            'keep them, leave the option out\n') in capsys.readouterr().out


def test_what_is_not_taken_of_a_fragment_is_said(config, tmp_path, monkeypatch, host_argv, capsys):
    whole = DIGITS / 'deit-nano_diverse_digits.py'
    call(monkeypatch, 'train.py', config, '--diversity', whole, '--work-dir', tmp_path / 'out')
    out = capsys.readouterr().out
    assert (f'mmdiverse: --diversity {whole}: of this file `diversity` alone is taken, and not '
            '`auto_scale_lr`, `custom_hooks`, `data_preprocessor`, `default_hooks` and ') in out


def test_an_infinite_number_reaches_the_run(config, tmp_path, monkeypatch, host_argv):
    path = child(config, "optim_wrapper = dict(clip_grad=dict(norm_type=float('inf')))")
    call(monkeypatch, 'train.py', path, '--diversity', 'patch', '--work-dir', tmp_path / 'out')
    assert Config.fromfile(host_argv[0]).optim_wrapper.clip_grad.norm_type == float('inf')


def test_what_cannot_be_written_is_named_before_the_run(config, tmp_path, monkeypatch, host_argv):
    path = child(config, 'train_dataloader = dict(collate_fn=len)')
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', path, '--diversity', 'patch', '--work-dir', tmp_path / 'out')
    assert stopped.value.code == (
        'the config cannot be written into a file: `train_dataloader.collate_fn` (<built-in '
        'function len>, of type builtin_function_or_method) would not be read as what it is; state '
        'it by text, numbers, lists and dicts')
    assert host_argv == []


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


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def test_two_processes_train_and_test_without_a_gpu(config, tmp_path):
    port = free_port()
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


# More processes than GPUs

@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that shows two GPUs."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,3')


@pytest.mark.parametrize(('launcher', 'task', 'command'), [
    ('pytorch', 'train', 'bash tools/dist_train.sh CONFIG 2'),
    ('pytorch', 'test', 'bash tools/dist_test.sh CONFIG CHECKPOINT 2'),
    ('slurm', 'train', 'GPUS_PER_NODE=2 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG'),
    ('mpi', 'train', 'mpirun -npernode 2 python tools/train.py CONFIG --launcher mpi'),
])
def test_more_processes_than_gpus_are_refused_with_the_command_to_use(
        launcher, task, command, gpus):
    with pytest.raises(SystemExit) as stopped:
        launch.check_gpus(launcher, Processes(total=8, here=4), task)
    assert stopped.value.code == (
        f'--launcher {launcher} started 4 processes on this machine, which has 2 GPUs '
        f'(CUDA_VISIBLE_DEVICES=0,3); start one for each: {command}')


@pytest.mark.parametrize('here', [1, 2])
def test_a_gpu_for_every_process_will_do(here, gpus):
    launch.check_gpus('pytorch', Processes(total=8, here=here), 'train')


def test_a_machine_without_gpus_takes_any_number_of_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    launch.check_gpus('pytorch', Processes(here=4), 'train')


def test_slurm_may_show_each_process_a_gpu_of_its_own(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    launch.check_gpus('slurm', Processes(here=4), 'train')
    with pytest.raises(SystemExit, match='has 1 GPU '):
        launch.check_gpus('pytorch', Processes(here=4), 'train')


@pytest.mark.parametrize(('launcher', 'environment'), [
    ('pytorch', dict(WORLD_SIZE='8', LOCAL_WORLD_SIZE='4', RANK='5', LOCAL_RANK='1')),
    ('slurm', dict(SLURM_NTASKS='8', SLURM_NTASKS_PER_NODE='4', SLURM_PROCID='5',
                   SLURM_LOCALID='1')),
    ('mpi', dict(OMPI_COMM_WORLD_SIZE='8', OMPI_COMM_WORLD_LOCAL_SIZE='4',
                 OMPI_COMM_WORLD_RANK='5', OMPI_COMM_WORLD_LOCAL_RANK='1')),
])
def test_processes_are_those_that_the_launcher_says(launcher, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Processes.of(launcher) == (8, 4, 5, 1)
    assert Processes.of('none') == (1, 1, 0, 0)


@pytest.mark.parametrize(('local_rank', 'waits'), [(0, []), (1, [launch.GRACE])])
def test_the_first_process_of_a_machine_speaks_before_the_others(local_rank, waits, monkeypatch):
    waited = []
    monkeypatch.setattr(launch.time, 'sleep', waited.append)
    with pytest.raises(SystemExit, match='why'), launch._one_message(Processes(rank=8,
                                                                               local_rank=local_rank)):
        raise SystemExit('why')
    assert waited == waits


def test_of_two_processes_on_one_gpu_one_says_what_is_wrong(config, tmp_path):
    script = tmp_path / 'train.py'
    script.write_text('import torch\nfrom mmdiverse.launch import run\n'
                      'torch.cuda.is_available = lambda: True\n'
                      'torch.cuda.device_count = lambda: 1\nrun("train.py")\n')
    ended = start([sys.executable, '-m', 'torch.distributed.run', '--master-port', free_port(),
                   '--nproc-per-node', '2', script, config, '--launcher', 'pytorch'], tmp_path)
    assert ended.returncode == 1
    message = '--launcher pytorch started 2 processes on this machine, which has 1 GPU; start one'
    assert (ended.stdout + ended.stderr).count(message) == 1
    assert not (tmp_path / 'work_dirs').exists()


# Data

@pytest.mark.parametrize(('lost', 'key', 'message'), [
    ('train', 'train', 'ImageNet: no folder {}/train.'),
    ('val', 'val', 'ImageNet: no folder {}/val.'),
    ('val/n00000007', 'val', 'ImageNet: {}/val should hold 1000 folders, one for each class, but '),
])
def test_missing_images_are_named_before_the_run(
        lost, key, message, imagenet, monkeypatch, host_argv):
    (imagenet / lost).rename(imagenet / 'elsewhere')
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, 'train.py', 'mmpretrain::deit/deit-tiny_4xb256_in1k.py')
    assert stopped.value.code.startswith(message.format(imagenet))
    assert f"Change `{key}_dataloader.dataset.data_root` ('data/imagenet')" in stopped.value.code
    assert host_argv == [] and not Path('work_dirs').exists()


def test_data_are_those_that_the_options_name(imagenet, monkeypatch, host_argv):
    words = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py', '--cfg-options',
             'train_dataloader.dataset.data_root=nowhere']
    with pytest.raises(SystemExit, match='no folder .*/nowhere/train'):
        call(monkeypatch, 'train.py', *words)


def test_a_test_needs_the_images_of_the_test_alone(imagenet, monkeypatch, host_argv):
    (imagenet / 'train').rename(imagenet / 'elsewhere')
    name = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
    call(monkeypatch, 'test.py', name, 'weights.pth')
    assert host_argv
    (imagenet / 'val').rename(imagenet / 'validation')
    with pytest.raises(SystemExit, match='no folder .*/val.*`test_dataloader'):
        call(monkeypatch, 'test.py', name, 'weights.pth')


def test_validation_that_is_left_out_needs_no_images(imagenet, monkeypatch, host_argv):
    (imagenet / 'val').rename(imagenet / 'elsewhere')
    call(monkeypatch, 'train.py', 'mmpretrain::deit/deit-tiny_4xb256_in1k.py', '--no-validate')
    assert '--no-validate' in host_argv


# What a config loses

def test_hooks_that_a_config_drops_are_told_of_before_training(
        tmp_path, monkeypatch, host_argv, capsys):
    path = tmp_path / 'child.py'
    path.write_text("_base_ = ['mmdiverse::digits/deit-nano_diverse_digits.py']\n"
                    "custom_hooks = [dict(type='EMAHook', momentum=1e-3)]\n")
    call(monkeypatch, 'train.py', path, '--work-dir', tmp_path / 'out')
    out = capsys.readouterr().out
    assert 'mmdiverse: warning: `custom_hooks` replaces that of ' in out
    assert 'drops its mmdiverse.DiversityHook' in out and host_argv
    call(monkeypatch, 'train.py', path, '--work-dir', tmp_path / 'out', '--diversity', 'all')
    assert 'drops' not in capsys.readouterr().out


# Learning rate

RATE = 'auto_scale_lr = dict(base_batch_size=16)\n'


@pytest.fixture
def config_with_base(config: Path) -> Path:
    config.write_text(config.read_text() + RATE)
    return config


def test_a_rate_meant_for_other_steps_is_told_in_one_line(
        config_with_base, tmp_path, monkeypatch, host_argv, capsys):
    call(monkeypatch, 'train.py', config_with_base, '--work-dir', tmp_path / 'out')
    assert capsys.readouterr().out == (
        'mmdiverse: warning: a step takes 4 images, but the learning rate 0.001 is meant for 16 '
        '(`auto_scale_lr.base_batch_size`; set auto_scale_lr.base_batch_size=4 if that rate is '
        'right for these steps), and this run trains with 0.001; for 0.00025 pass '
        '--auto-scale-lr or --cfg-options optim_wrapper.optimizer.lr=0.00025\n')
    assert host_argv


@pytest.mark.parametrize('words', [
    ['--auto-scale-lr'], ['--cfg-options', 'auto_scale_lr.enable=True'],
    ['--cfg-options', 'auto_scale_lr.base_batch_size=4'],
    ['--cfg-options', 'optim_wrapper.optimizer.lr=0.00025'],
    ['--cfg-options', 'train_dataloader.batch_size=16'],
    ['--cfg-options', 'optim_wrapper.accumulative_counts=4'],
])
def test_a_rate_that_fits_or_was_chosen_is_not_spoken_of(
        words, config_with_base, tmp_path, monkeypatch, host_argv, capsys):
    call(monkeypatch, 'train.py', config_with_base, '--work-dir', tmp_path / 'out', *words)
    assert capsys.readouterr().out == ''


def test_the_rate_that_is_proposed_reaches_the_scaled_one(config_with_base):
    cfg = Config.fromfile(config_with_base)
    cfg.optim_wrapper.accumulative_counts, cfg.auto_scale_lr.enable = 2, True
    note, = launch.learning_rate_notes(cfg, processes=1)
    assert '--auto-scale-lr' not in note  # it is on already, and leaves out accumulated batches
    assert 'takes 8 images' in note and 'trains with 0.00025; for 0.0005 pass' in note
    rate = float(re.search(r'optim_wrapper\.optimizer\.lr=(\S+)$', note)[1])
    assert rate * 4 / 16 == pytest.approx(1e-3 * 8 / 16)


def test_a_rate_that_is_no_number_ends_in_a_line(config_with_base):
    cfg = Config.fromfile(config_with_base)
    cfg.optim_wrapper.optimizer.lr = '1e-3'  # as YAML reads 1e-3
    with pytest.raises(SystemExit, match='`optim_wrapper.optimizer.lr` must be a positive'):
        launch.learning_rate_notes(cfg, processes=1)


def test_only_the_first_process_speaks_of_the_rate(
        config_with_base, tmp_path, monkeypatch, host_argv, capsys):
    monkeypatch.setattr(compat, 'init_process_group_without_gpu', lambda launcher: False)
    for rank, count in ((0, 1), (1, 0)):
        for name, value in dict(WORLD_SIZE=2, RANK=rank, LOCAL_RANK=rank).items():
            monkeypatch.setenv(name, str(value))
        call(monkeypatch, 'train.py', config_with_base, '--work-dir', tmp_path / 'out',
             '--launcher', 'pytorch')
        assert capsys.readouterr().out.count('a step takes 8 images') == count


# TensorBoard

LOCAL = dict(type='LocalVisBackend')
BOARD = dict(type='TensorboardVisBackend')


def set_tensorboard(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None,
                    installed: bool = True) -> None:
    find_spec = launch.find_spec
    monkeypatch.setattr(launch, 'find_spec', lambda name: installed or None
                        if name == 'tensorboard' else find_spec(name))
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', module)


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seems to be installed."""
    set_tensorboard(monkeypatch, ModuleType('torch.utils.tensorboard'))


def with_visualizer(config: Path, backends: list[dict]) -> Path:
    visualizer = dict(type='UniversalVisualizer', vis_backends=backends)
    config.write_text(f'{config.read_text()}visualizer = {visualizer}\n')
    return config


def test_tensorboard_is_added_where_it_is_installed(
        config, tmp_path, tensorboard, monkeypatch, host_argv, capsys):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', with_visualizer(config, [LOCAL]))
    assert host_argv == [str(Path('work_dirs', 'tiny', 'tiny.py'))]
    assert Config.fromfile(host_argv[0]).visualizer.vis_backends == [LOCAL, BOARD]
    assert capsys.readouterr().out == (
        'mmdiverse: TensorBoard is installed, so its event files are written too; state '
        '`visualizer.vis_backends` to choose otherwise\n')


@pytest.mark.parametrize('text', [
    "_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py']",
    'from mmengine.visualization import LocalVisBackend\n'
    'from mmpretrain.visualization import UniversalVisualizer\n'
    'visualizer = dict(type=UniversalVisualizer, vis_backends=[dict(type=LocalVisBackend)])',
], ids=['inherited', 'new style'])
def test_tensorboard_is_added_to_the_default_however_it_is_written(text, tmp_path, tensorboard):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    cfg = Config.fromfile(path)
    assert launch.add_tensorboard(cfg, {})
    backends = Config.fromstring(cfg.pretty_text, '.py').visualizer.vis_backends
    assert [launch.type_name(backend) for backend in backends] == [LOCAL['type'], BOARD['type']]


def test_tensorboard_and_diversity_go_into_one_config(
        config, tmp_path, tensorboard, monkeypatch, host_argv):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', with_visualizer(config, [LOCAL]), '--diversity', 'patch')
    cfg = Config.fromfile(host_argv[0])
    assert cfg.visualizer.vis_backends == [LOCAL, BOARD]
    assert cfg.custom_hooks[-1].type == 'mmdiverse.DiversityHook'


@pytest.mark.parametrize(('backends', 'words'), [
    ([BOARD], []), ([LOCAL, BOARD], []), ([dict(LOCAL, save_dir='elsewhere')], []), ([], []),
    ([LOCAL], ['--cfg-options', 'visualizer.vis_backends.0.type=TensorboardVisBackend']),
])
def test_logs_that_the_user_chose_stay(
        backends, words, config, tmp_path, tensorboard, monkeypatch, host_argv, capsys):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', with_visualizer(config, backends), *words)
    assert host_argv == [str(config), *words] and capsys.readouterr().out == ''


def test_a_test_writes_no_event_files(config, tmp_path, tensorboard, monkeypatch, host_argv):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'test.py', with_visualizer(config, [LOCAL]), 'weights.pth')
    assert host_argv == [str(config), 'weights.pth']


def test_nothing_is_changed_without_tensorboard(
        config, tmp_path, monkeypatch, host_argv, capsys):
    set_tensorboard(monkeypatch, None, installed=False)
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', with_visualizer(config, [LOCAL]))
    assert host_argv == [str(config)] and capsys.readouterr().out == ''


def test_a_tensorboard_that_cannot_be_imported_is_told_of_and_left_out(
        config, tmp_path, monkeypatch, host_argv, capsys):
    set_tensorboard(monkeypatch, None)
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, 'train.py', with_visualizer(config, [LOCAL]))
    assert Config.fromfile(host_argv[0]).visualizer.vis_backends == [LOCAL]
    assert 'TensorBoard is installed, but cannot be imported (import of ' in capsys.readouterr().out


def test_event_files_hold_every_term(tmp_path):
    pytest.importorskip('tensorboard', reason='needs tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended = start([sys.executable, TOOLS / 'train.py', DIGITS / 'deit-nano_digits.py',
                   '--diversity', 'all', '--work-dir', tmp_path, '--cfg-options',
                   'train_cfg.max_epochs=1', 'train_dataloader.num_batch_per_epoch=2',
                   'val_dataloader.num_batch_per_epoch=1'], tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    events, = tmp_path.glob('*/vis_data/events.out.tfevents.*')
    found = EventAccumulator(str(events))
    found.Reload()
    names = ['patch_cosine', 'patch_contrastive', 'attention_cosine',
             'weight_conditional_orthogonality']
    tags = {tag for name in names for tag in (name, f'loss_{name}', f'{name}_gradient_share')}
    assert tags | {'loss', 'loss_cls', 'model_gradient_share', 'accuracy/top1'} <= {
        *found.Tags()['scalars']}
    shares = sum(found.Scalars(f'{name}_gradient_share')[0].value for name in ['model', *names])
    assert shares == pytest.approx(1, abs=1e-5)
