"""What a config shares with the authors' recipe, and with another config."""
import subprocess
import sys
from pathlib import Path

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
    assert done.returncode == 2 and 'Traceback' not in done.stderr and 'nosuch' in done.stderr
