"""Configs: diversified, mixed and plain again; the fragments and the configs that are shipped."""
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from mmdiverse.config import (
    CONFIGS,
    add_mixing,
    check_hooks,
    diversify,
    is_diversified,
    list_fragments,
    load_config,
    load_fragment,
    plain_twin,
    remove_mixing,
)
from mmdiverse.hooks import DiversityHook
from mmdiverse.recipe import diff_configs

DEIT = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
SWIN = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
ROOT = Path(__file__).resolve().parents[1] / 'configs'
LEAVES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('[!_]*/*.py'))

def plain_name(name: str) -> str:
    """The config of the plain twin, by the rule of names: ours, or else MMPretrain's."""
    plain = re.sub(r'_(diverse(-[a-z]+)?|patch-mixing)(?=_)', '', name)
    return str(ROOT / plain) if plain in LEAVES else f'mmpretrain::{plain}'


PAIRS = [(name, plain_name(name)) for name in LEAVES if '_diverse' in name or '_patch-mix' in name]
HOOK = 'mmdiverse.DiversityHook'

hosts = pytest.mark.parametrize('name', [DEIT, SWIN])


@pytest.fixture(scope='module')
def loaded() -> dict[str, Config]:
    return {name: load_config(name) for name in (DEIT, SWIN)}


def build(cfg: Config) -> nn.Module:
    """The model of a config, as a Runner would build it."""
    init_default_scope('mmpretrain')
    model = deepcopy(cfg.model)
    model.setdefault('data_preprocessor', deepcopy(cfg.get('data_preprocessor')))
    return MODELS.build(model)


def plain(cfg: Config) -> dict[str, Any]:
    return cfg.to_dict()


@hosts
def test_diversify_adds_a_hook_and_changes_nothing_else(loaded: dict, name: str) -> None:
    cfg = plain(diversify(loaded[name], 'all'))
    assert [hook['type'] for hook in cfg.pop('custom_hooks')] == [HOOK]
    assert cfg == plain(loaded[name])


def test_diversify_keeps_other_hooks() -> None:
    cfg = Config(dict(model=dict(), custom_hooks=[dict(type='EMAHook')]))
    assert [hook.type for hook in diversify(cfg, 'all').custom_hooks] == ['EMAHook', HOOK]


@hosts
def test_diversify_replaces_a_hook(loaded: dict, name: str) -> None:
    cfg = diversify(diversify(loaded[name], 'all'), 'weight')
    assert [hook.terms for hook in cfg.custom_hooks] == [load_fragment('weight').terms]


@hosts
def test_diversify_works_on_a_copy(loaded: dict, name: str) -> None:
    before = deepcopy(plain(loaded[name]))
    diversify(loaded[name], 'all', mixing=True)
    assert plain(loaded[name]) == before


@hosts
def test_mixing_is_undone(loaded: dict, name: str) -> None:
    cfg = deepcopy(loaded[name])
    mixing = add_mixing(cfg)
    mixing.model.head.loss.image_share = 0.5
    assert plain(remove_mixing(mixing)) == plain(loaded[name])


@hosts
def test_the_plain_twin_of_a_diversified_config_is_the_config(loaded: dict, name: str) -> None:
    twin = plain(plain_twin(diversify(loaded[name], 'all', mixing=True)))
    assert twin.pop('custom_hooks') == [] and twin == plain(loaded[name])


@pytest.mark.parametrize(('name', 'head', 'patch_size'), [
    (DEIT, 'mmdiverse.PatchMixingClsHead', 16), (SWIN, 'mmdiverse.PatchMixingLinearClsHead', 32)])
def test_mixing_changes_head_loss_augments_and_preprocessor(loaded: dict, name: str, head: str,
                                                            patch_size: int) -> None:
    cfg = add_mixing(deepcopy(loaded[name]))
    assert (cfg.model.head.type, cfg.data_preprocessor.patch_size) == (head, patch_size)
    assert cfg.model.head.loss == dict(type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)
    assert [augment.type for augment in cfg.model.train_cfg.augments] == [
        'mmdiverse.PatchMixup', 'mmdiverse.PatchCutMix']


def test_the_plain_twin_does_not_inherit_who_is_mixed_with_whom(loaded: dict) -> None:
    cfg = add_mixing(deepcopy(loaded[DEIT]))
    for augment in cfg.model.train_cfg.augments:
        augment.partner = 'flip'
    assert plain(plain_twin(cfg)) == plain(loaded[DEIT])


def test_mixing_finds_a_preprocessor_inside_the_model(loaded: dict) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.data_preprocessor = cfg.pop('data_preprocessor')
    assert add_mixing(cfg).model.data_preprocessor.patch_size == 16


def test_mixing_twice_is_mixing_once(loaded: dict) -> None:
    once = add_mixing(deepcopy(loaded[DEIT]))
    assert plain(add_mixing(deepcopy(once))) == plain(once)


def test_mixing_knows_two_families(loaded: dict) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.backbone.type = 'ResNet'
    with pytest.raises(ValueError, match='`model.backbone` and `model.head`.*got ResNet and Vis'):
        add_mixing(cfg)


def test_mixing_knows_mixup_and_cutmix(loaded: dict) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.train_cfg.augments[0].type = 'ResizeMix'
    with pytest.raises(ValueError, match='`model.train_cfg.augments` must be .*got ResizeMix'):
        add_mixing(cfg)


@hosts
def test_is_diversified(loaded: dict, name: str) -> None:
    configs = [loaded[name], diversify(loaded[name], 'all'), add_mixing(deepcopy(loaded[name]))]
    assert [is_diversified(cfg) for cfg in configs] == [False, True, True]


@pytest.mark.parametrize(('diverse', 'name'), PAIRS)
def test_plain_twin_of_a_shipped_config_is_its_plain_config(diverse: str, name: str) -> None:
    twin, expected = plain(plain_twin(load_config(ROOT / diverse))), plain(load_config(name))
    twin.pop('diversity', None)  # of the fragment
    for cfg in (twin, expected):
        cfg['custom_hooks'] = cfg.get('custom_hooks') or []
    assert twin == expected


@pytest.mark.parametrize(('diverse', 'name'), PAIRS)
def test_a_shipped_config_and_its_plain_config_differ_in_diversity_alone(diverse: str, name: str
                                                                         ) -> None:
    differences = diff_configs(load_config(ROOT / diverse), load_config(name))
    assert differences and [each.key for each in differences if not each.why] == []


# The DeiT recipes choose the authors' partners, `flip`.
@pytest.mark.parametrize(('diverse', 'name'), [pair for pair in PAIRS if 'digits' in pair[0]])
def test_mixing_of_a_plain_config_is_that_of_its_diversified_one(diverse: str, name: str) -> None:
    expected, cfg = load_config(ROOT / diverse), load_config(name)
    if expected.model.head.type.startswith('mmdiverse.'):
        add_mixing(cfg)
    for key in ('model', 'data_preprocessor'):
        assert plain(cfg)[key] == plain(expected)[key]


def test_there_are_shipped_pairs() -> None:
    assert len(PAIRS) >= 60


def test_unknown_fragment_lists_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match="no diversity fragment 'none'.*'all'.*'weight'"):
        load_fragment('none')


def test_a_file_without_diversity_is_no_fragment(tmp_path: Path) -> None:
    path = tmp_path / 'other.py'
    path.write_text('terms = []\n')
    with pytest.raises(ValueError, match='other.py must define `diversity = dict'):
        load_fragment(str(path))


def test_a_file_of_the_user_is_a_fragment(tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text(f'diversity = dict(type={HOOK!r}, terms=[])\n')
    assert load_fragment(str(path)).terms == []


@pytest.mark.parametrize('fragment', list_fragments())
def test_every_fragment_builds_a_hook(fragment: str) -> None:
    hook = HOOKS.build(load_fragment(fragment))
    assert isinstance(hook, DiversityHook) and hook.enabled_terms


@pytest.mark.parametrize('fragment', list_fragments())
def test_a_fragment_defines_diversity_alone(fragment: str) -> None:
    # Two base files may not share a key.
    assert list(load_config(CONFIGS / '_base_' / 'diversity' / f'{fragment}.py')) == ['diversity']


@pytest.mark.parametrize('fragment', list_fragments())
def test_every_fragment_fits_a_backbone(fragment: str) -> None:
    family = 'swin' if fragment == 'swin' else 'vit'
    hook = HOOKS.build(load_fragment(fragment))
    hook.attach(build(load_config(ROOT / f'digits/{family}-nano_digits.py')))
    assert hook.tap is not None


@pytest.mark.parametrize('name', LEAVES)
def test_every_shipped_config_builds_a_model_that_its_terms_fit(name: str) -> None:
    cfg = load_config(ROOT / name)
    model = build(cfg)
    hooks = [HOOKS.build(hook) for hook in cfg.get('custom_hooks', []) if hook.type == HOOK]
    for hook in hooks:
        hook.attach(model)
    assert len(hooks) == ('_diverse' in name)


@pytest.mark.parametrize('name', LEAVES)
def test_every_shipped_config_says_how_to_launch_it(name: str) -> None:
    comments = (ROOT / name).read_text().partition('_base_ =')[0].replace('\\\n#', '')
    assert re.search(rf'tools/.*configs/{name}', comments)


def test_mixing_keeps_smoothing_and_factor_of_the_loss(loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.head.loss.loss_weight = 2.
    assert add_mixing(cfg).model.head.loss == dict(
        type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1, loss_weight=2.)


@pytest.mark.parametrize('loss', [
    dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='classy_vision'),
    dict(type='CrossEntropyLoss', use_sigmoid=True),
    dict(type='FocalLoss')])
def test_mixing_refuses_a_loss_that_it_cannot_replace(loss: dict, loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.head.loss = loss
    with pytest.raises(ValueError, match='`model.head.loss`'):
        add_mixing(cfg)


def test_mixing_refuses_a_preprocessor_that_it_cannot_replace(loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.data_preprocessor.type = 'SelfSupDataPreprocessor'
    with pytest.raises(ValueError, match='`data_preprocessor`'):
        add_mixing(cfg)


def test_config_of_an_unknown_package_is_named() -> None:
    with pytest.raises(FileNotFoundError, match='nosuch::deit/x.py'):
        load_config('nosuch::deit/x.py')


@pytest.mark.parametrize(('hooks', 'message'), [
    (dict(type='mmdiverse.DiversityHook', terms=[]),
     r"must be a list of configs of hooks, but is a dict with the keys \['type', 'terms'\]; write "
     r"`custom_hooks=\[dict"),
    ('mmdiverse.DiversityHook', "must be a list of configs of hooks, but is 'mmdiverse.DiversityH"),
    (3, 'must be a list of configs of hooks, but is 3'),
    (['mmdiverse.DiversityHook'], r"custom_hooks\[0\]` must be the config of a hook.*but is 'mmdi"),
    ([dict(type='EMAHook'), [dict(type='EMAHook')]], r'custom_hooks\[1\]` must be the config of a'),
    ([None], r'custom_hooks\[0\]` must be the config of a hook.*but is None'),
    ([dict(terms=[])], r"custom_hooks\[0\]` needs a `type`, but has the keys \['terms'\]"),
])
def test_hooks_that_are_no_list_of_hooks(hooks: object, message: str) -> None:
    cfg = Config(dict(model=dict(type='ImageClassifier'), custom_hooks=hooks))
    for use in (check_hooks, is_diversified, plain_twin, lambda cfg: diversify(cfg, 'patch')):
        with pytest.raises(ValueError, match=message):
            use(cfg)


@pytest.mark.parametrize('hooks', [None, [], (dict(type='EMAHook'), ), [EMAHook()]])
def test_hooks_may_be_none_or_built(hooks: object) -> None:
    check_hooks(dict(custom_hooks=hooks))
    check_hooks(dict())
