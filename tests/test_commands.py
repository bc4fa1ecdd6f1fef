"""The commands of README.md and of docs/*.md run, outside of the clone.

Every command of a block marked ``bash`` or ``shell``, and every one in backticks that begins with
``python tools/``, stands in one of three tables: in COMMANDS or in SLOW, with what shortens it, or
in ELSEWHERE, with what runs it. Those of a page run in one folder, which holds the files that the
page shows, a copy of the documents, and small inputs with the names that a reader replaces
(CHECKPOINT, FOLDER); of the clone it has nothing. A command of several pages runs for one of them.
"""
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import timm
import torch
import yaml
from mmpretrain.apis.model import ModelHub
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from timm.data import ImageNetInfo

from mmdiverse.config import load_config
from tests.processes import run_script
from tests.report.test_modes import report
from tests.test_docs import PAGES, blocks, code_spans

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {'README': (ROOT / 'README.md').read_text(encoding='utf-8'),
             **{name: page for name, page in PAGES.items() if name != 'readme'}}
DEIT = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
DEIT_NANO = 'configs/digits/deit-nano_digits.py'
NANO_DIVERSE = 'configs/digits/deit-nano_diverse_digits.py'


class Shortened(NamedTuple):
    """How a command is run.

    Attributes:
        added (str): Options that are put at its end.
        instead (dict): Words of it, and those that take their place.
    """

    added: str = ''
    instead: dict[str, str] = {}


AS_IT_STANDS = Shortened()
# Steps of two images, of 32 pixels where they are those of ImageNet. No option touches a schedule,
# and the epochs are either the command's or some more than warm up: a schedule that does not fit
# the epochs has to be seen.
STEPS = ('train_dataloader.num_batch_per_epoch=1 train_dataloader.batch_size=2 '
         'val_dataloader.num_batch_per_epoch=1 val_dataloader.batch_size=2')
SMALL = ('train_dataloader.dataset.pipeline.1.scale=32 val_dataloader.dataset.pipeline.1.scale=32 '
         'val_dataloader.dataset.pipeline.2.crop_size=32 train_dataloader.num_workers=0 '
         'val_dataloader.num_workers=0 train_dataloader.persistent_workers=False '
         'val_dataloader.persistent_workers=False')
TINY = 'model.backbone.arch=deit-tiny model.head.in_channels=192'
IMAGENET = f'--cfg-options {STEPS} {SMALL} train_cfg.val_interval=20 ' \
           'default_hooks.checkpoint.interval=100'
DIGITS = f'--cfg-options {STEPS} train_cfg.max_epochs=1'
TRIAL = f'--batch-size 2 --steps 1 --cfg-options {SMALL}'
AUDIT = '--num-images 2 --num-subsampled 2 --batch-size 2 --workers 0'
PAIRS = '--pairs 2 --batch-size 1 --img-size'

#: By page, those that take seconds.
COMMANDS: dict[str, dict[str, Shortened]] = {
    'README': {
        'python tools/analysis/audit.py CONFIG CHECKPOINT --images FOLDER': Shortened(AUDIT),
        'python tools/analysis/audit.py work_dirs/plain --beside work_dirs/diverse --names plain '
        'diverse': Shortened(f'{AUDIT} --measures head_cosine'),
        'python tools/benchmarks/overhead.py mmpretrain::deit/deit-small_4xb256_in1k.py --terms '
        '--pairs 6 --out docs/benchmarks/overhead_terms_deit-small_cpu.json':
            Shortened(f'{PAIRS} 16 --restart', {DEIT: DEIT_NANO}),  # 28 arms
        'python tools/benchmarks/overhead.py mmpretrain::deit/deit-small_4xb256_in1k.py '
        '--fragments official patch attention weight all --recipe --pairs 30 --out '
        'docs/benchmarks/overhead_deit-small_cpu.json': Shortened(f'{PAIRS} 32 --restart'),
        'python tools/benchmarks/scaling.py --repeats 3 --out docs/benchmarks/scaling_cpu.json':
            Shortened('--quick --restart'),
        'python tools/benchmarks/scaling.py --attention-memory': Shortened('--quick'),
        'python tools/catalogue.py README.md docs/benchmarks/overhead_terms_deit-small_cpu.json':
            AS_IT_STANDS,
        'python tools/parity.py tests/data/official_losses.npz': AS_IT_STANDS,
        'python tools/recipe_diff.py CONFIG --against mmpretrain::deit/deit-small_4xb256_in1k.py':
            Shortened(instead={'CONFIG': 'configs/deit/deit-small_diverse_4xb256_in1k.py'}),
        'python tools/preflight.py configs/deit/deit-small_diverse_8xb128_in1k.py --sample FOLDER '
        '--batch-size 8': Shortened(TRIAL),
    },
    'audit': {
        'python tools/analysis/audit.py WORK_DIR --beside OTHER_WORK_DIR --names plain diverse':
            Shortened(AUDIT),
        'python tools/analysis/audit.py deit-small_4xb256_in1k --images FOLDER':
            Shortened(f'{AUDIT} --measures head_cosine'),
        'python tools/analysis/audit.py timm:deit_small_patch16_224 --images FOLDER':
            Shortened(f'{AUDIT} --measures head_cosine'),
        'python tools/benchmarks/audit.py mmpretrain::deit/deit-small_4xb256_in1k.py --out '
        'docs/benchmarks/audit_deit-small_cpu.json':
            Shortened('--images 2 --subsampled 1 --batch-size 1 --img-size 32'),
        'python tools/catalogue.py docs/audit.md': AS_IT_STANDS,
    },
    'coverage': {
        'python tools/analysis/coverage.py --out docs/coverage.json --insert docs/coverage.md':
            Shortened('--match timm:eva02_tiny --restart'),
        'python tools/analysis/coverage.py --match beit timm:eva':
            Shortened('--match timm:eva02_tiny'),
    },
    'distributed': {
        'python tools/benchmarks/distributed.py --overhead '
        'docs/benchmarks/overhead_deit-small_cpu.json '
        'docs/benchmarks/overhead_terms_deit-small_cpu.json --arms patch attention weight '
        "patch+attention+weight 'ConditionalOrthogonalityLoss on weight' --also "
        f'mmpretrain::vision_transformer/vit-large-p16_64xb64_in1k.py {rate}--out '
        f'docs/benchmarks/distributed_{name}.json --page docs/distributed.md': AS_IT_STANDS
        for name, rate in (('cpu', ''), ('fast', '--step-seconds 0.1 '))
    },
    'diversify': {
        'python tools/train.py mmpretrain::deit/deit-small_4xb256_in1k.py --diversity all':
            Shortened(f'{IMAGENET} {TINY} train_cfg.max_epochs=21'),
        'python tools/train.py mmpretrain::deit/deit-small_4xb256_in1k.py --diversity official '
        '--mixing': Shortened(f'{IMAGENET} {TINY} train_cfg.max_epochs=21'),
        'python tools/preflight.py my_deit.py --gpus 4 --batch-size 8 --sample FOLDER':
            Shortened(TRIAL),
        'python tools/train.py mmpretrain::deit/deit-small_4xb256_in1k.py --diversity all '
        '--cfg-options load_from=CHECKPOINT train_cfg.max_epochs=20 '
        'optim_wrapper.optimizer.lr=5e-5 param_scheduler.0.end=2 param_scheduler.1.begin=2 '
        'param_scheduler.1.eta_min=1e-6':
            Shortened(IMAGENET, {'load_from=CHECKPOINT': 'load_from=deit-small.pth'}),
    },
    'get_started': {
        'python tools/compare.py configs/digits/deit-nano_diverse_digits.py':
            Shortened(f'--seeds 1 {DIGITS}'),
        'python tools/compare.py configs/digits/deit-nano_diverse_digits.py --seeds 1 --work-dir '
        'work_dirs/trial --cfg-options train_cfg.max_epochs=1': Shortened(DIGITS),
        'python tools/train.py configs/digits/deit-nano_digits.py': Shortened(DIGITS),
        'python tools/analysis/audit.py work_dirs/trial/plain/seed0 --beside '
        'work_dirs/trial/diverse/seed0 --names plain diverse --images digits':
            Shortened(f'{AUDIT} --measures head_cosine'),
        'python tools/train.py my_nano.py': Shortened(DIGITS),
    },
    'logs': {
        'python tools/train.py configs/digits/deit-nano_diverse_digits.py': Shortened(DIGITS),
        'python tools/analysis/analyze_logs.py plot_curve LOG.json --keys patch_cosine '
        'loss_patch_cosine --out curves.png': AS_IT_STANDS,
        'python tools/analysis/analyze_logs.py cal_train_time LOG.json': AS_IT_STANDS,
    },
    'recipes': {
        'python tools/train.py my_deit.py':
            Shortened(f'{IMAGENET} {TINY} train_cfg.max_epochs=6'),
        'python tools/recipe_diff.py configs/deit/deit-small_diverse_8xb128_in1k.py': AS_IT_STANDS,
        'python tools/recipe_diff.py configs/deit/deit-small_diverse_8xb128_in1k.py --against '
        'configs/deit/deit-small_8xb128_in1k.py': AS_IT_STANDS,
        'python tools/preflight.py configs/deit/deit-small_diverse_8xb128_in1k.py --sample FOLDER '
        '--batch-size 8 --out preflight.json': Shortened(TRIAL),
        'python tools/preflight.py configs/deit/deit-tiny_diverse_8xb128_in1k.py --sample FOLDER '
        '--batch-size 4': Shortened(TRIAL),
        'python tools/convert_checkpoint.py SOURCE.pth TARGET.pth': AS_IT_STANDS,
        'python tools/train.py configs/deit/deit-small_diverse_8xb128-ft-20e_in1k.py '
        '--cfg-options load_from=TARGET.pth': Shortened(IMAGENET),
    },
    'robustness': {
        'python tools/modes.py docs/robustness.md openmmlab.xml onedl.xml --out docs/modes.json':
            AS_IT_STANDS,
    },
    'study': {
        'python tools/train.py CONFIG --cfg-options model.head.loss.image_share=0.5':
            Shortened(DIGITS),
        'python tools/preflight.py CONFIG': Shortened('--batch-size 2 --steps 1'),
    },
}
STUDY = 'python tools/study.py configs/cifar/study_cifar10'
REPORT = 'python tools/study_report.py configs/cifar/study_cifar10'
#: By page, those that start processes of their own, which import everything anew, and large models.
#: The studies are copies of one step: see shorten_studies.
SLOW: dict[str, dict[str, Shortened]] = {
    'README': {
        'bash tools/dist_train.sh configs/deit/deit-small_diverse_8xb128_in1k.py 8':
            Shortened(f'{IMAGENET} {TINY} train_cfg.max_epochs=6', {'8': '2'}),
    },
    'coverage': {
        f'python tools/benchmarks/overhead.py mmpretrain::{config}.py --fragments {fragment} '
        f'attention weight --batch-size {batch} --pairs 10 --out '
        f'docs/benchmarks/overhead_{name}_cpu.json':
            Shortened(f'--fragments {fragment} --restart {PAIRS} {side}')
        for name, config, fragment, batch, side in (
            ('vit-base', 'vision_transformer/vit-base-p16_64xb64_in1k', 'patch', 2, 32),
            ('beit-base', 'beit/benchmarks/beit-base-p16_8xb64_in1k', 'patch', 2, 224),
            ('swin-tiny', 'swin_transformer/swin-tiny_16xb64_in1k', 'swin_patch', 4, 224),
            ('swinv2-tiny', 'swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px', 'swin_patch',
             4, 256))
    },
    'study': {
        f'{STUDY}.yaml --jobs 4': AS_IT_STANDS,
        f'{STUDY}.yaml --devices 0 1 2 3': AS_IT_STANDS,
        f'{REPORT}.yaml': AS_IT_STANDS,
        f'{STUDY}-subset_sweep.yaml --jobs 2': AS_IT_STANDS,
        f'{REPORT}-subset_sweep.yaml': AS_IT_STANDS,
        f'{STUDY}-subset.yaml --jobs 2': AS_IT_STANDS,
        f'{REPORT}-subset.yaml': AS_IT_STANDS,
        'python tools/benchmarks/data_path.py work_dirs/study/cifar10-subset/deit-nano-p4/plain/'
        'seed0/deit-tiny-p4_1xb128_cifar10.py --workers 0 2 --steps 10 --rounds 3 --out '
        'docs/benchmarks/data_path_cpu.json':
            Shortened('--batch-size 2 --steps 1 --rounds 2 --restart'),
    },
}
INSTALL = 'pip install -c requirements/constraints.txt -e '
CHECK = 'python tools/downstream/check_transfer.py configs/downstream/det/mask-rcnn_'
DISTRIBUTED = 'tests/test_distributed.py::test_'
DOWNSTREAM = 'tests/downstream/test_commands.py::test_'
MIM = 'tests/test_package.py::test_mim_trains_and_tests_an_installed_wheel'
#: Where commands are run that this file does not run: a test, or a line of a file. They are whole,
#: but for those that end with an ellipsis, of which a test looks up the rest.
ELSEWHERE = {
    f"{INSTALL}'.[openmmlab]'": '.ci/run::$(block 1)',
    f"{INSTALL}'.[openmmlab,tests,docs]'": '.ci/run::$(block 2)',
    f"{INSTALL}'.[openmmlab,docs]'": '.ci/run::$(block 2)',  # a part of it
    f"MMCV_WITH_OPS=0 {INSTALL}'.[onedl]'": ".ci/run::-e '.[onedl,tests]'",
    f"{INSTALL}'.[downstream]'": ".ci/run::-e '.[downstream,tests]'",
    'bash tools/downstream/install_mmcv.sh': '.ci/run::bash tools/downstream/install_mmcv.sh',
    "python -m pytest -n 2 -m 'not slow'": '.ci/run::$(block 2)',
    'python -m pytest -n 2 tests/robustness --junitxml=openmmlab.xml': '.ci/run::$(block 2)',
    "pip install openmim 'openxlab<0.0.12' 'setuptools<81'": 'requirements/tests.txt::openmim',
    'mim train mmdiverse deit-nano_diverse_digits.py --work-dir work_dirs/nano': MIM,
    'mim test mmdiverse deit-nano_diverse_digits.py --checkpoint work_dirs/nano/epoch_20.pth': MIM,
    'sphinx-build -W --keep-going -b html docs docs/_build':
        'tests/test_docs.py::test_the_site_builds_without_a_warning',
    f'bash tools/dist_train.sh {NANO_DIVERSE} 2 …': f'{DISTRIBUTED}one_machine_trains_and_tests',
    f'bash tools/dist_test.sh {NANO_DIVERSE} …': f'{DISTRIBUTED}one_machine_trains_and_tests',
    'NNODES=2 …': f'{DISTRIBUTED}two_machines_train_together',
    'torchrun --nnodes 2 …': f'{DISTRIBUTED}two_machines_find_each_other_through_a_rendezvous',
    'python -m torch.distributed.run …':
        f'{DISTRIBUTED}torchrun_as_a_module_scales_the_learning_rate',
    'mkdir -p dry': f'{DISTRIBUTED}slurm_would_run_what_the_page_shows',
    "printf '#!/bin/sh…": f'{DISTRIBUTED}slurm_would_run_what_the_page_shows',
    'chmod +x dry/srun': f'{DISTRIBUTED}slurm_would_run_what_the_page_shows',
    'GPUS=…': f'{DISTRIBUTED}slurm_would_run_what_the_page_shows',
    'bash tools/dist_train.sh configs/downstream/det/mask-rcnn_swin-tiny_fpn_1x_coco.py 8':
        f'{DOWNSTREAM}a_detector_trains_on_several_processes',
    f'{CHECK}swin-tiny_fpn_1x_coco.py CHECKPOINT': f'{DOWNSTREAM}every_weight_arrives',
    f'{CHECK}deit-small_fpn_1x_coco.py '
    'ema:work_dirs/deit-small_diverse_8xb128_in1k/epoch_300.pth':
        f'{DOWNSTREAM}every_weight_arrives',
    'python tools/downstream/compare.py':
        'tests/downstream/test_compare.py::test_command_writes_table_json_and_picture',
}
#: What nothing runs, and why.
NEVER = {
    f"MMCV_WITH_OPS=0 {INSTALL}'.[onedl]' onedl-mmdetection==3.5.1 …":
        'compiles another MMCV for a quarter of an hour; CI compiles that of OpenMMLab',
    'pip install tensorboard': 'of another project, and nothing here needs it',
    'tensorboard --logdir work_dirs': 'of another project, and runs until it is stopped',
    "pip install 'deepspeed<0.19'": 'of another project, and compiled when it is installed',
}


def steps_of(line: str) -> list[str]:
    """The commands of a line of shell, without comments and superfluous space."""
    line = re.sub(r'\s#\s.*', '', line.replace('\\\n', ' '))
    return [' '.join(step.split()) for step in line.split(' && ') if step.strip()]


def documented(page: str) -> list[str]:
    """The commands of a page, each once."""
    lines = chain.from_iterable(block.text.replace('\\\n', ' ').splitlines()
                                for block in blocks(page) if block.language in ('bash', 'shell'))
    spans = [span for span in code_spans(page) if span.startswith('python tools/')]
    return [*dict.fromkeys(chain.from_iterable(map(steps_of, [*lines, *spans])))]


def is_one_of(command: str, table: dict[str, str]) -> bool:
    return any(command.startswith(each[:-1]) if each.endswith('…') else command == each
               for each in table)


# The tables

@pytest.mark.parametrize('name', DOCUMENTS)
def test_a_block_is_of_a_kind_that_is_looked_at(name: str) -> None:
    kinds = re.findall(r'^ *```(.*)\n(?:.*\n)*? *```$', DOCUMENTS[name], flags=re.M)
    assert {*kinds} <= {'bash', 'shell', 'python', 'py', 'text', 'yaml', 'bibtex', '{toctree}'}


def test_every_command_is_run_somewhere() -> None:
    run = {command for table in (COMMANDS, SLOW) for page in table.values() for command in page}
    missing = [f'{name}: {command}' for name, page in DOCUMENTS.items()
               for command in documented(page)
               if command not in run and not is_one_of(command, {**NEVER, **ELSEWHERE})]
    assert not missing, 'add to a table of this file'


@pytest.mark.parametrize('table', [COMMANDS, SLOW], ids=['quick', 'slow'])
def test_what_is_run_is_documented(table: dict[str, dict[str, Shortened]]) -> None:
    assert not [f'{name}: {command}' for name, commands in table.items() for command in commands
                if command not in documented(DOCUMENTS[name])]


def test_what_is_run_elsewhere_is_documented_and_run_there() -> None:
    every = [*chain.from_iterable(map(documented, DOCUMENTS.values()))]
    for each, place in {**NEVER, **ELSEWHERE}.items():
        assert any(is_one_of(command, {each: place}) for command in every), each
    for place in ELSEWHERE.values():
        file, _, line = place.partition('::')
        assert line in (ROOT / file).read_text(encoding='utf-8'), place


def test_what_a_reader_replaces_is_explained() -> None:
    commands = '\n'.join(chain.from_iterable(map(documented, DOCUMENTS.values())))
    words = re.findall(r'(?<![\w/.$-])[A-Z_]{3,}(?:\.\w+)?(?![\w=])', commands)
    words = {*words} - {'README.md'}
    assert {'CONFIG', 'FOLDER', 'SOURCE.pth'} <= words <= {*code_spans(DOCUMENTS['index'])}


# What a reader has

@pytest.fixture(scope='module')
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data, weights and trained runs, named as in the documents."""
    folder = tmp_path_factory.mktemp('inputs')
    write_imagenet(folder / 'data' / 'imagenet')
    write_cifar(folder / 'data' / 'cifar10')
    (folder / 'FOLDER').symlink_to(folder / 'data' / 'imagenet')
    write_weights(folder)
    for arm, name in (('plain', 'deit-nano_digits'), ('diverse', 'deit-nano_diverse_digits')):
        work_dir = f'work_dirs/{arm}'
        run(f'python tools/train.py configs/digits/{name}.py --work-dir {work_dir} {DIGITS}',
            folder)
    (folder / 'WORK_DIR').symlink_to(folder / 'work_dirs' / 'plain')
    (folder / 'OTHER_WORK_DIR').symlink_to(folder / 'work_dirs' / 'diverse')
    (folder / 'CHECKPOINT').symlink_to(folder / 'work_dirs' / 'diverse' / 'epoch_1.pth')
    log, = (folder / 'work_dirs' / 'diverse').glob('*/vis_data/scalars.json')
    (folder / 'LOG.json').symlink_to(log)
    for stack in ('openmmlab', 'onedl'):
        report(folder / f'{stack}.xml', 'fp32')
    return folder


def write_image(path: Path, side: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_imagenet(folder: Path) -> None:
    """All classes, but images in the first alone: a batch for each of two processes."""
    first, *others = ImageNetInfo('imagenet-1k').label_names()
    for split in ('train', 'val'):
        for number in range(4):
            write_image(folder / split / first / f'{number}.png', side=64)
        for name in others:
            (folder / split / name).mkdir()


def write_cifar(folder: Path) -> None:
    for split in ('train', 'val'):
        for label in range(10):
            for number in range(4):
                write_image(folder / split / f'class{label}' / f'{number}.png', side=32)


def write_weights(folder: Path) -> None:
    """Those of a DeiT-S, with the keys of either library, and where downloads are kept."""
    ours = MODELS.build(load_config(DEIT).model).state_dict()
    torch.save({'state_dict': ours}, folder / 'deit-small.pth')
    released = folder / 'torch' / 'hub' / 'checkpoints'
    released.mkdir(parents=True)
    name = ModelHub.get('deit-small_4xb256_in1k').weights.rpartition('/')[2]
    (released / name).hardlink_to(folder / 'deit-small.pth')

    model = timm.create_model('deit_small_patch16_224')
    torch.save(model.state_dict(), folder / 'SOURCE.pth')
    repository = model.default_cfg['hf_hub_id'].replace('/', '--')
    cache = folder / 'huggingface' / 'hub' / f'models--{repository}'
    for part in ('refs', 'snapshots/0'):
        (cache / part).mkdir(parents=True)
    (cache / 'refs' / 'main').write_text('0')
    save_file(model.state_dict(), cache / 'snapshots' / '0' / 'model.safetensors')


@pytest.fixture
def place(request: pytest.FixtureRequest, inputs: Path, tmp_path: Path) -> Path:
    """The folder in which the commands of a page run."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / 'work_dirs').unlink()
    shutil.copytree(inputs / 'work_dirs', tmp_path / 'work_dirs')
    shutil.copy(ROOT / 'README.md', tmp_path)
    shutil.copytree(ROOT / 'docs', tmp_path / 'docs',
                    ignore=shutil.ignore_patterns('*.png', '_build', 'api'))
    for block in blocks(DOCUMENTS[request.node.callspec.params['name']]):
        if file := re.match(r'# (\w+\.py)$', block.text, flags=re.M):
            (tmp_path / file[1]).write_text(block.text, encoding='utf-8')
    return tmp_path


def run(command: str, folder: Path, short: Shortened = AS_IT_STANDS) -> str:
    """What a command prints when it is run in a folder, of which it must end well."""
    words = [short.instead.get(word, word) for word in shlex.split(command)]
    added = shlex.split(short.added)
    if '--cfg-options' in words:  # argparse takes the last ones alone
        added = [word for word in added if word != '--cfg-options']
    words = [find(word, folder) for word in [*words, *added]]
    environment = dict(CUDA_VISIBLE_DEVICES='', TORCH_HOME=str(folder / 'torch'),
                       HF_HOME=str(folder / 'huggingface'), HF_HUB_OFFLINE='1',
                       PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    if words[0] == 'python' and not any(word.startswith('timm:d') for word in words):
        status, printed = run_script(words[1:], folder, ROOT, **environment)
    else:  # HuggingFace's library reads its variables when it is imported
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            environment['PORT'] = str(free.getsockname()[1])
        done = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        status, printed = done.returncode, done.stdout
    assert status == 0, f'{shlex.join(words)}\n{printed[-4000:]}'
    assert 'train' not in Path(words[1]).stem or 'Epoch(train)' in printed, printed[-4000:]
    for option, file in zip(words, words[1:]):
        assert option != '--out' or (folder / file).exists(), f'{file} is not written'
    return printed


def find(word: str, folder: Path) -> str:
    """A file of the clone that a word names, unless the folder has one of that name."""
    word = NANO_DIVERSE if word == 'CONFIG' else word
    ours = word.startswith(('tools/', 'configs/', 'tests/')) and not (folder / word).exists()
    return str(ROOT / word) if ours else word


# The commands

@pytest.mark.parametrize('name', COMMANDS)
def test_commands_run(name: str, place: Path) -> None:
    for command, short in COMMANDS[name].items():
        run(command, place, short)


@pytest.mark.slow
@pytest.mark.parametrize('name', SLOW)
def test_slow_commands_run(name: str, place: Path) -> None:
    shorten_studies(place)
    for command, short in SLOW[name].items():
        run(command, place, short)


def shorten_studies(folder: Path) -> None:
    """Copies of the studies with one seed, the first arm of the first model, and one step."""
    shutil.copytree(ROOT / 'configs', folder / 'configs')
    studies = {path: yaml.safe_load(path.read_text(encoding='utf-8'))
               for path in (folder / 'configs' / 'cifar').glob('*.yaml')}
    jpeg = studies[folder / 'configs' / 'cifar' / 'study_cifar10-subset.yaml']['options']
    for path, study in studies.items():
        study['seeds'] = study['seeds'][:1]
        # Images as files, since MMPretrain would download the others.
        steps = dict(option.split('=') for option in STEPS.split())
        study['options'] = {**jpeg, **study.get('options', {}), 'train_cfg.max_epochs': 1,
                            **{key: int(value) for key, value in steps.items()}}
        name, model = next(iter(study['models'].items()))
        model['arms'] = dict([next(iter(model['arms'].items()))])
        study['models'] = {name: model}
        path.write_text(yaml.safe_dump(study), encoding='utf-8')
