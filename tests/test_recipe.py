"""What a config shares with the authors' recipe, and with another config."""
import subprocess
import sys
from pathlib import Path

import mmpretrain
import pytest
from mmengine.config import Config

from mmdiverse.config import diversify, load_config, plain_twin
from mmdiverse.recipe import AUTHORS, diff_authors, diff_configs

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
DIVERSE = CONFIGS / 'deit/deit-small_diverse_8xb128_in1k.py'
PLAIN = CONFIGS / 'deit/deit-small_8xb128_in1k.py'
BASE = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
TERMS = {'classified', 'terms of patches', 'terms of attention', 'terms of weights',
         'partner in Mixup', 'partner in CutMix'}


def names(cfg: Config, gpus: int = 8) -> set[str]:
    return {difference.name for difference in diff_authors(cfg, gpus) if not difference.why}


@pytest.mark.parametrize('size', ['tiny', 'small', 'small-24', 'base'])
def test_the_recipe_of_the_authors_is_reproduced_but_for_explained_lines(size: str) -> None:
    differences = diff_authors(load_config(CONFIGS / f'deit/deit-{size}_diverse_8xb128_in1k.py'))
    assert {difference.name for difference in differences} == {'precision', 'schedule'}
    assert all(difference.why for difference in differences)


@pytest.mark.parametrize('size', ['tiny', 'small', 'small-24', 'base'])
def test_the_plain_twin_differs_in_diversity_alone(size: str) -> None:
    plain = load_config(CONFIGS / f'deit/deit-{size}_8xb128_in1k.py')
    assert names(plain) == TERMS
    diverse = load_config(CONFIGS / f'deit/deit-{size}_diverse_8xb128_in1k.py')
    assert all(difference.why for difference in diff_configs(diverse, plain))


@pytest.mark.parametrize(('level', 'term'), [
    ('patch', 'terms of patches'), ('attention', 'terms of attention'),
    ('weight', 'terms of weights')])
def test_a_single_level_is_that_of_the_authors(level: str, term: str) -> None:
    cfg = load_config(CONFIGS / f'deit/deit-small_diverse-{level}_8xb128_in1k.py')
    assert names(cfg) == TERMS - {term}


def test_patch_mixing_alone_is_that_of_the_authors() -> None:
    cfg = load_config(CONFIGS / 'deit/deit-small_patch-mixing_8xb128_in1k.py')
    assert names(cfg) == {name for name in TERMS if name.startswith('terms')}


def test_what_mmpretrains_deit_lacks_is_named() -> None:
    assert names(load_config(BASE), gpus=4) == TERMS | {
        'gradient clipping', 'warm-up', 'schedule', 'drop path', 'average of the weights',
        'repeated augmentation'}


@pytest.mark.parametrize(('options', 'name', 'ours'), [
    ({'train_dataloader.batch_size': 64}, 'images of a step', '512'),
    ({'optim_wrapper.accumulative_counts': 2}, 'learning rate', '0.00025 x images / 512'),
    ({'optim_wrapper.optimizer.weight_decay': 0.3}, 'weight decay', '0.3'),
    ({'optim_wrapper.paramwise_cfg.norm_decay_mult': 1.}, 'not decayed',
     'bias, cls_token, pos_embed'),
    ({'optim_wrapper.type': 'SomeOptimWrapper'}, 'precision', 'mixed (SomeOptimWrapper)'),
    ({'train_cfg.max_epochs': 100}, 'epochs', '100'),
    ({'model.backbone.drop_path_rate': 0.2}, 'drop path', '0.2'),
    ({'model.head.loss.label_smooth_val': 0.}, 'label smoothing', '0'),
    ({'model.train_cfg.probs': [0.2, 0.8]}, 'share of CutMix', '0.8'),
    ({'train_dataloader.sampler.num_repeats': 2}, 'repeated augmentation', '2'),
    ({'custom_hooks.0.momentum': 1e-3}, 'average of the weights', '0.999'),
    ({'custom_hooks.1.terms.2.weight': 0.}, 'terms of attention', 'none'),
    ({'train_dataloader.dataset.pipeline.3.magnitude_level': 5}, 'RandAugment',
     '2 of magnitude 5, deviation 0.5'),
    ({'val_dataloader.dataset.pipeline.1.scale': 232}, 'shorter side in evaluation',
     '232, bicubic'),
])
def test_a_change_is_a_difference_without_a_reason(options: dict, name: str, ours: str) -> None:
    cfg = load_config(DIVERSE)
    cfg.merge_from_dict(options)
    found = {difference.name: difference for difference in diff_authors(cfg)}
    assert found[name].ours == ours and not found[name].why
    assert found[name].theirs == next(field.theirs for field in AUTHORS if field.name == name)


def test_what_mixing_changes_and_keeps_has_a_reason() -> None:
    cfg = load_config(BASE)
    cfg.model.data_preprocessor = cfg.pop('data_preprocessor')
    cfg.model.head.loss = dict(type='CrossEntropyLoss')
    mixing = diversify(cfg, 'all', mixing=True)
    assert {difference.why for difference in diff_configs(mixing, cfg)} == {
        'diversity terms', 'patch-level mixing', 'kept for the plain twin'}
    assert diff_configs(plain_twin(mixing), cfg) == []


def test_a_key_that_is_no_diversity_has_no_reason() -> None:
    cfg = diversify(load_config(BASE), 'all')
    assert {difference.why for difference in diff_configs(cfg, load_config(BASE))} == \
        {'diversity terms'}
    cfg.optim_wrapper.optimizer.lr = 1.
    different, = (difference for difference in diff_configs(cfg, load_config(BASE))
                  if not difference.why)
    assert (different.key, different.ours, different.theirs) == \
        ('optim_wrapper.optimizer.lr', '1', '0.001')


def test_what_mmpretrains_own_deit_has_too_is_marked() -> None:
    cfg = load_config('mmpretrain::deit/deit-small_4xb256_in1k.py')
    assert all(each.inherited for each in diff_authors(cfg, 4))
    cfg.train_cfg.max_epochs = 10
    assert [each.name for each in diff_authors(cfg, 4) if not each.inherited] == [
        'epochs', 'schedule']


@pytest.fixture(scope='module')
def host_recipes() -> dict[str, Config]:
    """MMPretrain's own of ViT, DeiT and DeiT III, by name."""
    folder = Path(mmpretrain.__file__).parent / '.mim/configs'
    return {f'{kind}/{path.name}': load_config(path)
            for kind in ('vision_transformer', 'deit', 'deit3')
            for path in sorted((folder / kind).glob('*.py'))}


def test_every_vit_of_mmpretrain_can_be_read(host_recipes: dict[str, Config]) -> None:
    assert len(host_recipes) == 27
    base = load_config(BASE)
    for name, cfg in host_recipes.items():
        found = {each.name: each.ours for each in diff_authors(cfg)}
        assert TERMS <= found.keys(), name
        assert diff_configs(cfg, cfg) == [] and (diff_configs(cfg, base) or 'deit-small_4x' in name)
        assert not any('_scope_' in each.key for each in diff_configs(cfg, base))


@pytest.mark.parametrize(('name', 'fields'), [
    ('deit3/deit3-base-p16_64xb64_in1k.py', {
        'schedule': 'cosine from epoch 30 of 300 to 0', 'warm-up': '30 epochs from 1e-09',
        'drop path': '0.2', 'weight decay': '0.1', 'Mixup': None, 'CutMix': None, 'betas': None,
        'epsilon': None, 'share of CutMix': None}),
    ('vision_transformer/vit-base-p16_64xb64_in1k.py', {
        'Mixup': '0.2', 'CutMix': 'none', 'share of CutMix': '0', 'dropout': '0.1',
        'gradient clipping': 'norm 1.0', 'label smoothing': None, 'partner in CutMix': 'none'}),
    ('vision_transformer/vit-base-p16_8xb64-lora_in1k-384px.py', {
        'dropout': '0.1', 'drop path': '0', 'epochs': '50', 'random crop': '384, bilinear',
        'schedule': 'cosine from epoch 5 of 50 to 1e-06', 'crop in evaluation': '384'}),
    ('vision_transformer/vit-base-p16_4xb544-ipu_in1k.py', {
        'optimizer': '(absent)', 'learning rate': '(absent)', 'epochs': '(absent)',
        'warm-up': '800 iterations from 0.02 of the rate',
        'schedule': 'cosine from iteration 800 of (absent) to 0', 'random crop': None}),
    ('vision_transformer/vit-base-p16_32xb128-mae_in1k.py', {
        'not decayed': None, 'betas': '(0.9, 0.95)'}),  # by `custom_keys` alone
    ('deit/deit-base-distilled_16xb32_in1k-384px.py', {'drop path': '0', 'Mixup': 'none'}),
])
def test_fields_of_mmpretrains_own_are_right(name: str, fields: dict,
                                             host_recipes: dict[str, Config]) -> None:
    found = {each.name: each.ours for each in diff_authors(host_recipes[name])}
    assert {field: found.get(field) for field in fields} == fields


AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)],
                probs=[0.3, 0.7])


@pytest.mark.parametrize(('options', 'name', 'ours'), [
    (dict(param_scheduler=None), 'schedule', 'none'),
    (dict(param_scheduler=[]), 'warm-up', 'none'),
    (dict(param_scheduler=dict(type='PolyLR', power=2)), 'schedule', 'PolyLR'),
    (dict(param_scheduler=[dict(type='LinearLR', by_epoch=False, end=9)]), 'warm-up',
     '9 iterations from 0.000333333'),
    (dict(param_scheduler=[dict(type='CosineAnnealingLR', eta_min_ratio=0.1, by_epoch=False)],
          train_cfg=dict(by_epoch=False, max_iters=70)), 'schedule',
     'cosine from iteration 0 of 70 to 0.1 of the rate'),
    (dict(train_cfg=dict(by_epoch=False, max_iters=70)), 'epochs', '70 iterations'),
    ({'optim_wrapper.type': 'AmpOptimWrapper'}, 'precision', None),
    ({'optim_wrapper': dict(type='AmpOptimWrapper', dtype='bfloat16',
                            optimizer=dict(type='AdamW', lr=1e-3))}, 'precision',
     'mixed (bfloat16)'),
    ({'optim_wrapper.type': 'mmdiverse.AutocastOptimWrapper'}, 'precision', 'mixed (bfloat16)'),
    ({'optim_wrapper': dict(optimizer=dict(type='AdamW', lr=1e-3))}, 'weight decay', '0.01'),
    ({'optim_wrapper': dict(optimizer=dict(type='AdamW', lr=1e-3))}, 'not decayed', 'nothing'),
    ({'optim_wrapper': dict(optimizer=dict(type='SGD', lr=1e-3))}, 'betas', '(absent)'),
    ({'optim_wrapper.optimizer.betas': [0.9, 0.999]}, 'betas', None),
    ({'optim_wrapper.paramwise_cfg': dict(flat_decay_mult=0., custom_keys={
        'cls_token': dict(decay_mult=0.), 'pos_embed': dict(decay_mult=0.)})}, 'not decayed', None),
    ({'optim_wrapper.paramwise_cfg': dict(bias_decay_mult=0., custom_keys={
        '.ln': dict(decay_mult=0.), '.pos': dict(lr_mult=2.)})}, 'not decayed', 'norm, bias'),
    ({'optim_wrapper.clip_grad': dict(type='value', clip_value=0.5)}, 'gradient clipping',
     'type value, clip_value 0.5'),
    ({'model.train_cfg': None}, 'Mixup', 'none'),
    ({'model.train_cfg': dict(augments=dict(type='CutMix', alpha=0.3), probs=0.4)}, 'CutMix',
     '0.3'),
    ({'model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.), probs=0.4)},
     'share of CutMix', '0.4'),
    ({'data_preprocessor.batch_augments': AUGMENTS}, 'share of CutMix', '0.7'),
    ({'model.data_preprocessor': dict(batch_augments=AUGMENTS)}, 'share of CutMix', '0.7'),
    ({'data_preprocessor.batch_augments': dict(augments=dict(type='Mixup', alpha=0.5))}, 'Mixup',
     '0.5'),
    ({'model.head': None}, 'label smoothing', '0'),
    ({'val_dataloader': None}, 'crop in evaluation', 'none'),
    ({'train_dataloader.batch_size': 8}, 'learning rate', '0.008 x images / 512'),
])
def test_what_a_config_leaves_to_the_host_is_what_the_host_does(options: dict, name: str,
                                                                ours: str | None) -> None:
    cfg = load_config(PLAIN)
    for key, value in options.items():
        *path, last = key.split('.')
        part = cfg
        for each in path:
            part = part[each]
        part[last] = value
    found = {difference.name: difference.ours for difference in diff_authors(cfg)}
    assert found.get(name) == ours


def test_data_sets_in_wrappers_are_looked_into() -> None:
    cfg = load_config(PLAIN)
    before = diff_authors(cfg)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2,
                                        dataset=cfg.train_dataloader.dataset)
    assert diff_authors(cfg) == before


def test_a_swin_has_the_drop_path_that_it_has_by_itself() -> None:
    cfg = load_config('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py')
    found = {difference.name: difference.ours for difference in diff_authors(cfg, 16)}
    assert found['drop path'] == '0.2' and 'not decayed' in found
    del cfg.model.backbone['drop_path_rate']
    assert 'drop path' not in {difference.name for difference in diff_authors(cfg, 16)}  # 0.1


def test_a_lazy_config_is_that_in_text() -> None:
    root = CONFIGS.parent / 'mmdiverse/configs/deit'
    lazy = load_config(root / 'deit_small_diverse_8xb128_in1k.py')
    assert {each.name for each in diff_authors(lazy)} == {'precision', 'schedule'}
    # Classes and their names are the same.
    assert not {each.key for each in diff_configs(lazy, load_config(DIVERSE))} & {
        'model.type', 'model.backbone.type', 'model.head.type', 'optim_wrapper.optimizer.type'}


def test_equal_configs_do_not_differ() -> None:
    assert diff_configs(load_config(DIVERSE), load_config(DIVERSE)) == []


def test_a_config_without_training_is_refused() -> None:
    with pytest.raises(ValueError, match='images of a step.*`train_dataloader.batch_size`'):
        diff_authors(Config(dict(model=dict())))


def run(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, 'tools/recipe_diff.py', *map(str, args)],
                          capture_output=True, text=True, timeout=300)


def test_the_tool_says_what_differs_and_why() -> None:
    done = run(DIVERSE)
    assert done.returncode == 0, done.stderr
    assert f"{len(AUTHORS) - 2} of {len(AUTHORS)} fields are those of the authors' recipe" \
        in done.stdout
    done = run(DIVERSE, '--cfg-options', 'optim_wrapper.optimizer.lr=0.01')
    assert done.returncode == 1
    assert 'no known reason; to change it, set `optim_wrapper.optimizer.lr`' in done.stdout
    done = run(DIVERSE, '--against', PLAIN)
    assert done.returncode == 0 and 'patch-level mixing' in done.stdout
    done = run('nosuch::deit/x.py')
    assert done.returncode == 1 and 'Traceback' not in done.stderr and 'nosuch' in done.stderr
