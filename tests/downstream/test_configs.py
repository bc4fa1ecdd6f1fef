"""Every config of configs/downstream trains in its toolbox, with the toolbox's compiled operators.

Backbones and heads are narrowed, images are scenes of digits; everything else is the config's own.
"""
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from mmdiverse.config import HOOK, load_config, type_name
from mmdiverse.datasets.digit_scenes import write_digit_scenes
from mmdiverse.recipe import diff_configs

from ..runs import CONFIGS

ROOT = CONFIGS.parent
# Not those of the scenes themselves, which are small already.
LEAVES = sorted(path for path in (CONFIGS / 'downstream').glob('[!_]*/*.py')
                if 'digit-scenes' not in path.stem)
TERMS = {'patch_cosine', 'patch_contrastive', 'attention_cosine',
         'weight_conditional_orthogonality'}
CLASSES = dict(det=tuple('0123456789'), seg=('background', *'0123456789'))
NARROWER = 4
WIDTHS = {'in_channels', 'out_channels', 'channels', 'feat_channels', 'conv_out_channels',
          'fc_out_channels', 'embed_dim', 'embed_dims'}
# Sizes of images, and the range of ratios by which MMSegmentation resizes them before it crops.
SMALLER = {(1333, 800): (128, 96), (2048, 512): (192, 96), (512, 512): (96, 96),
           (480, 480): (64, 64), (0.5, 2.0): (0.75, 1.25)}

each_leaf = pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'scenes'
    write_digit_scenes(folder, num_train=8, num_val=4, seed=0)
    return folder


def build(backbone: dict[str, Any], scope: str) -> nn.Module:
    """A backbone, or a whole model, as a Runner with this default scope would build it."""
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(backbone)


def recipe_of(cfg: Config) -> Config:
    """The config whose work dir the checkpoint of another one is from."""
    name = Path(cfg.pretrained.rpartition(':')[2]).parent.name
    path, = CONFIGS.rglob(f'{name}.py')
    return load_config(path)


def shrink(value: Any, fixed: dict[str, Any], key: str = '') -> Any:
    """A config with narrower layers, smaller images, and the values of some keys."""
    if isinstance(value, dict):
        return {name: shrink(part, fixed, name) for name, part in value.items()}
    if isinstance(value, list):
        return [shrink(part, fixed, key) for part in value]
    if key in fixed:
        return fixed[key]
    return value // NARROWER if key in WIDTHS else SMALLER.get(value, value)


def narrow(backbone: dict[str, Any]) -> None:
    """Four blocks or stages in place of a backbone's, as narrow as the heads expect them."""
    if type_name(backbone) == 'SwinTransformer':
        backbone['arch'] = dict(embed_dims=96 // NARROWER, depths=[1, 1, 1, 2],
                                num_heads=[2, 2, 2, 2])
        return
    width = {'deit-small': 384, 'base': 768}[backbone['arch']] // NARROWER
    backbone['arch'] = dict(embed_dims=width, num_layers=4, num_heads=2,
                            feedforward_channels=width)
    if 'out_indices' in backbone:
        backbone['out_indices'] = (0, 1, 2, 3)
    if backbone.get('img_size') == 512:
        backbone['img_size'] = 96


def small(path: Path, scenes: Path, work_dir: Path) -> Config:
    """A config that trains two steps on scenes, from a checkpoint of its recipe, and validates."""
    cfg = load_config(path)
    recipe = recipe_of(cfg).model.backbone
    narrow(recipe)
    weights = {f'backbone.{key}': value
               for key, value in build(recipe, 'mmpretrain').state_dict().items()}
    checkpoint = work_dir / 'recipe.pth'
    scheme, separator, _ = cfg.pretrained.rpartition(':')
    content = dict(state_dict=weights)
    if scheme:
        content['ema_state_dict'] = {f'module.{key}': value for key, value in weights.items()}
    torch.save(content, checkpoint)

    classes = CLASSES[path.parent.name]
    # Background is a class here, and a detection of any score is kept.
    fixed = dict(num_classes=len(classes), reduce_zero_label=False, score_thr=0.)
    cfg.model = shrink(cfg.model, fixed)
    narrow(cfg.model.backbone)
    cfg.model.backbone.init_cfg.checkpoint = f'{scheme}{separator}{checkpoint}'
    for split in ('train', 'val'):
        loader = shrink(cfg[f'{split}_dataloader'], fixed)
        loader.update(num_workers=0, persistent_workers=False, num_batch_per_epoch=2)
        if path.parent.name == 'det':
            loader['dataset'].update(
                data_root=f'{scenes}/', ann_file=f'annotations/instances_{split}.json',
                data_prefix=dict(img=f'{split}/'), metainfo=dict(classes=classes))
        else:
            loader['dataset'].update(
                type='BaseSegDataset', data_root=str(scenes), img_suffix='.png',
                seg_map_suffix='.png',
                data_prefix=dict(img_path=split, seg_map_path=f'masks/{split}'),
                metainfo=dict(classes=classes, palette=[[20 * i] * 3 for i in range(11)]))
        cfg[f'{split}_dataloader'] = loader
    if path.parent.name == 'det':
        cfg.val_evaluator.ann_file = str(scenes / 'annotations/instances_val.json')
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.train_dataloader.batch_size = 2
    for key in ('test_dataloader', 'test_evaluator', 'test_cfg'):
        cfg[key] = None
    cfg.default_hooks.logger.interval = 1
    cfg.randomness = dict(seed=0)
    cfg.work_dir, cfg.experiment_name = str(work_dir), path.stem
    return cfg


class Steps(Hook):
    """Keeps what every step logs, and the sizes of its images."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []
        self.sizes: list[set[tuple[int, ...]]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        self.logs.append({key: value.item() for key, value in outputs.items()})
        self.sizes.append({sample.img_shape for sample in data_batch['data_samples']})


def assert_norms_and_positions_do_not_decay(runner: Runner) -> None:
    decays = {id(parameter): group['weight_decay']
              for group in runner.optim_wrapper.optimizer.param_groups
              for parameter in group['params']}
    spared = [parameter for module in runner.model.backbone.modules()
              for name, parameter in module.named_parameters(recurse=False)
              if isinstance(module, nn.LayerNorm)
              or name in {'pos_embed', 'cls_token', 'relative_position_bias_table'}]
    assert len(spared) > 10
    assert {decays[id(parameter)] for parameter in spared} == {0.}


@each_leaf
def test_it_trains_and_validates_in_its_toolbox(path: Path, scenes: Path, tmp_path: Path) -> None:
    runner = Runner.from_cfg(small(path, scenes, tmp_path))
    steps = Steps()
    runner.register_hook(steps)
    runner.train()

    assert len(steps.logs) == 2
    assert any(len(sizes) == 2 for sizes in steps.sizes)
    for log in steps.logs:
        assert all(map(math.isfinite, log.values())) and log['loss'] > 0
        if '_diverse_' in path.stem:
            assert all(log[f'loss_{term}'] != 0 and log[term] != 0 for term in TERMS)
        else:
            assert not TERMS & log.keys()
    # Distributed training stops at a parameter without a gradient; such a one has no state.
    trained = [each for each in runner.model.parameters() if each.requires_grad]
    assert len(runner.optim_wrapper.optimizer.state) == len(trained)
    assert_norms_and_positions_do_not_decay(runner)
    metric = dict(det='coco/bbox_mAP', seg='mIoU')[path.parent.name]
    assert f'val/{metric}' in runner.message_hub.log_scalars


@each_leaf
def test_it_builds_and_the_checkpoint_of_its_recipe_fills_the_backbone(path: Path) -> None:
    cfg = load_config(path)
    recipe = recipe_of(cfg)
    backbone = build(cfg.model, cfg.default_scope).backbone
    state = build(recipe.model.backbone, 'mmpretrain').state_dict()
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    new = {f'norm{stage}' for stage in cfg.model.backbone.get('out_indices', ()) if stage != 3}
    assert {key.split('.')[0] for key in missing} == (new if 'swin' in path.stem else set())
    assert unexpected == []
    assert cfg.model.backbone.init_cfg.checkpoint == cfg.pretrained
    assert Path(cfg.pretrained).stem == f'epoch_{recipe.train_cfg.max_epochs}'
    averages = any(type_name(hook) == 'EMAHook' for hook in recipe.custom_hooks)
    assert cfg.pretrained.startswith('ema:') == averages


@pytest.mark.parametrize('path', [path for path in LEAVES if '_diverse_' in path.stem],
                         ids=lambda path: path.stem)
def test_twins_differ_in_diversity_alone(path: Path) -> None:
    diverse = load_config(path)
    plain = load_config(path.with_stem(path.stem.replace('_diverse_', '_')))
    assert [type_name(hook) for hook in diverse.custom_hooks].count(HOOK) == 1
    assert HOOK not in [type_name(hook) for hook in plain.custom_hooks]
    assert [each.key for each in diff_configs(diverse, plain) if not each.why] == []


def test_every_family_has_its_twin() -> None:
    diverse = {path.stem.partition('_diverse')[0] for path in LEAVES if '_diverse_' in path.stem}
    assert diverse == {'mask-rcnn_swin-tiny_fpn', 'mask-rcnn_deit-small_fpn', 'swin-tiny_upernet',
                       'deit-small_mln_upernet'}


@each_leaf
def test_it_says_how_to_launch_it(path: Path) -> None:
    comments = path.read_text().partition('_base_ =')[0].replace('\\\n#', '')
    command = comments.partition('bash tools/dist_train.sh ')[2].split()
    assert command[:2] == [path.relative_to(ROOT).as_posix(), '8']


@pytest.mark.parametrize('name', ['det/mask-rcnn_swin-tiny_fpn_diverse_1x_coco.py',
                                  'seg/swin-tiny_upernet_diverse_8xb2-160k_ade20k-512x512.py'])
def test_our_tools_launch_it(name: str, scenes: Path, tmp_path: Path) -> None:
    cfg = small(CONFIGS / 'downstream' / name, scenes, tmp_path)
    cfg.dump(tmp_path / 'config.py')
    done = subprocess.run(
        [sys.executable, 'tools/train.py', tmp_path / 'config.py', '--no-validate'], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert 'loss_patch_cosine' in done.stdout
