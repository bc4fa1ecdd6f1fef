"""Configs: diversified, mixed and plain again; the fragments and the configs that are shipped."""
import datetime
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import mmpretrain
import numpy as np
import pytest
import torch
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
    left_out_of_fragment,
    list_fragments,
    load_config,
    load_fragment,
    plain_twin,
    readable_text,
    remove_mixing,
    two_sides,
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


def with_part(cfg: Config, key: str, value: Any) -> Config:
    """A copy of a config with a value in place of what it has at a key."""
    values = deepcopy(plain(cfg))
    *parents, name = key.split('.')
    owner = values
    for parent in parents:
        owner = owner[parent]
    owner[name] = value
    return Config(values)


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
    assert plain(plain_twin(diversify(loaded[name], 'all', mixing=True))) == plain(loaded[name])


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


@pytest.mark.parametrize(('name', 'key', 'value'), [
    (DEIT, 'model.head.loss.class_weight', [1., 2.]),
    (DEIT, 'model.head.loss.pos_weight', [1., 2.]),
    (DEIT, 'model.head.loss.reduction', 'sum'),
    (DEIT, 'model.head.loss.mode', 'multi_label'),
    (DEIT, 'model.head.loss.num_classes', 10),
    (DEIT, 'model.head.loss.ignore_index', 255),
    (DEIT, 'model.head.loss.avg_non_ignore', True),
    (DEIT, 'model.head.cal_acc', True),
    (DEIT, 'model.backbone.out_type', 'avg_featmap'),
    (DEIT, 'model.backbone.out_type', 'featmap'),
    (DEIT, 'model.backbone.out_type', 'raw'),
    (DEIT, 'model.backbone.with_cls_token', False),
    (DEIT, 'model.backbone.patch_cfg', dict(stride=8)),
    (DEIT, 'model.neck', dict(type='ClsBatchNormNeck', input_features=384)),
    (SWIN, 'model.neck', None),
    (SWIN, 'model.neck', dict(type='GlobalAveragePooling', dim=1)),
    (SWIN, 'model.neck', dict(type='GeneralizedMeanPooling')),
    (SWIN, 'model.backbone.stage_cfgs', dict(downsample=False)),
    (SWIN, 'model.backbone.stage_cfgs', [dict(), dict(downsample_cfg=dict(kernel_size=3))]),
    (SWIN, 'model.head.loss.class_weight', [1., 2.]),
])
def test_mixing_refuses_what_it_cannot_keep_and_names_it(loaded, name: str, key: str, value: Any
                                                         ) -> None:
    cfg = with_part(loaded[name], key, value)
    before = deepcopy(plain(cfg))
    with pytest.raises(ValueError, match=rf'`{re.escape(key)}[`.].*without `--mixing`'):
        diversify(cfg, 'all', mixing=True)
    assert plain(cfg) == before
    assert plain(plain_twin(diversify(cfg, 'all'))) == before


def test_mixing_of_average_pooling_is_refused() -> None:
    cfg = load_config('mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py')
    with pytest.raises(ValueError, match='got VisionTransformer and LinearClsHead'):
        add_mixing(cfg)


@pytest.mark.parametrize('model', [
    dict(type='TimmClassifier', model_name='vit_tiny_patch16_224'), dict(backbone=None, head=None),
    dict(type='ImageClassifier', backbone=dict(type='VisionTransformer'))])
def test_mixing_refuses_a_model_without_backbone_or_head(model: dict) -> None:
    with pytest.raises(ValueError, match='`model.backbone` and `model.head`'):
        add_mixing(Config(dict(model=model)))


#: What may be in a config that is mixed, and has to be in its twin.
KEPT = [
    (DEIT, {'model.head.loss': dict(type='CrossEntropyLoss', use_soft=True, loss_weight=1.)}),
    (DEIT, {'model.head.loss': dict(type='CrossEntropyLoss', class_weight=None)}),
    (DEIT, {'model.head.loss': dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1,
                                    num_classes=1000, reduction='mean', loss_weight=2.)}),
    (DEIT, {'model.head': dict(type='mmpretrain.VisionTransformerClsHead', num_classes=1000,
                               in_channels=384, hidden_dim=8, topk=(1, 5), cal_acc=False,
                               init_cfg=None)}),
    (DEIT, {'model.backbone.out_type': 'cls_token', 'model.backbone.final_norm': False}),
    (DEIT, {'model.neck': None, 'model.train_cfg': None}),
    (DEIT, {'model.train_cfg': dict(augments=dict(type='Mixup', alpha=0.2), probs=0.5)}),
    (DEIT, {'model.train_cfg': dict(augments=[dict(type='mmpretrain.CutMix', alpha=1.)],
                                    probs=[0.3])}),
    (DEIT, {'data_preprocessor': dict(type='ClsDataPreprocessor', pad_value=3, to_onehot=True,
                                      batch_augments=dict(augments=dict(type='Mixup', alpha=1.)))}),
    (DEIT, {'data_preprocessor': None}),
    (DEIT, {'model.data_preprocessor': dict(type='ClsDataPreprocessor', mean=[1.])}),
    (DEIT, {'custom_hooks': []}), (DEIT, {'custom_hooks': None}),
    (DEIT, {'custom_hooks': (dict(type='EMAHook', momentum=1e-4), )}),
    (SWIN, {'model.neck': dict(type='GlobalAveragePooling', dim=2)}),
    (SWIN, {'model.backbone.stage_cfgs': dict(block_cfgs=dict(window_size=6))}),
]


@pytest.mark.parametrize(('name', 'parts'), KEPT)
@pytest.mark.parametrize('mixing', [False, True])
def test_the_twin_has_what_mixing_replaced(loaded, name: str, parts: dict, mixing: bool) -> None:
    cfg = Config({key: loaded[name][key] for key in ('model', 'data_preprocessor')})
    for key, value in parts.items():
        cfg = with_part(cfg, key, value)
    expected = deepcopy(plain(cfg))
    diverse = diversify(cfg, 'all', mixing=mixing)
    assert plain(plain_twin(diverse)) == expected
    read = Config.fromstring(diverse.pretty_text, '.py')
    assert plain(plain_twin(read)) == expected
    if mixing:
        unmixed = remove_mixing(deepcopy(diverse))
        assert plain(plain_twin(unmixed)) == expected and is_diversified(unmixed)
        assert plain(remove_mixing(add_mixing(cfg))) == expected


def test_the_twin_of_an_absent_preprocessor_has_none(loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.pop('data_preprocessor')
    assert plain(plain_twin(diversify(cfg, 'all', mixing=True))) == plain(cfg)


def test_the_twin_of_what_was_changed_after_mixing_has_the_change(loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.head.loss = dict(type='CrossEntropyLoss')
    cfg = diversify(cfg, 'all', mixing=True)
    cfg.model.head.loss.label_smooth_val = 0.2
    assert plain_twin(cfg).model.head.loss == dict(type='LabelSmoothLoss', mode='original',
                                                   label_smooth_val=0.2)


def test_a_config_that_is_diversified_twice_has_the_twin_of_the_first(loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.head.loss = dict(type='CrossEntropyLoss')
    again = diversify(diversify(cfg, 'patch', mixing=True), 'weight', mixing=True)
    assert plain(plain_twin(again)) == plain(cfg)


def test_the_twin_of_a_new_style_config_is_the_config() -> None:
    cfg = Config.fromfile(ROOT.parent / 'mmdiverse/configs/deit/deit_small_8xb128_in1k.py')
    assert plain(plain_twin(diversify(cfg, 'all', mixing=True))) == plain(cfg)


@pytest.mark.parametrize(('backbone', 'parts'), [
    (dict(type='BEiTViT', out_type='raw'), dict(backbone=dict(type='BEiTViT',
                                                              out_type='cls_token'))),
    (dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224'),
     dict(neck=dict(type='mmdiverse.ClassTokenNeck')))])
def test_the_twin_of_another_backbone_classifies_its_class_token(backbone: dict, parts: dict
                                                                 ) -> None:
    head = dict(type='mmdiverse.PatchMixingClsHead')
    twin = plain(plain_twin(Config(dict(model=dict(backbone=backbone, head=head)))))['model']
    assert {key: twin[key] for key in parts} == parts


def test_hooks_that_are_no_list_are_refused(loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.custom_hooks = dict(type='EMAHook')
    with pytest.raises(ValueError, match='`custom_hooks` must be a list of .* but is a dict'):
        diversify(cfg, 'all')


def host_configs(*folders: str) -> Iterator[tuple[str, Config]]:
    """MMPretrain's configs of models, but for those that it cannot read itself."""
    root = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
    for path in sorted(root.glob('*/**/*.py')):
        name = path.relative_to(root)
        if name.parts[0] == '_base_' or folders and name.parts[0] not in folders:
            continue
        try:
            cfg = Config.fromfile(path)
        except (KeyError, ModuleNotFoundError, RuntimeError):
            continue
        if 'model' in cfg:
            yield str(name), cfg


def twins_that_differ(configs: Iterable[tuple[str, Config]]) -> tuple[list[str], list[str]]:
    """Configs whose twin is another, and those that can be mixed."""
    wrong, mixed = [], []
    for name, cfg in configs:
        expected = plain(plain_twin(cfg))
        for mixing in (False, True):
            try:
                diverse = diversify(cfg, 'all', mixing)
            except ValueError as error:
                assert mixing and 'model.' in str(error), name
                continue
            mixed += [name] * mixing
            if plain(plain_twin(diverse)) != expected:
                wrong.append(name)
        if expected != plain(cfg):
            wrong.append(name)
    return wrong, mixed


def test_twins_of_the_configs_that_can_be_mixed() -> None:
    wrong, mixed = twins_that_differ(host_configs('deit', 'vision_transformer', 'swin_transformer'))
    assert wrong == [] and len(mixed) == 19


@pytest.mark.slow
def test_twins_of_all_configs_of_mmpretrain() -> None:
    every = list(host_configs())
    wrong, mixed = twins_that_differ(every)
    assert wrong == [] and len(every) > 500 and len(mixed) >= 25


@pytest.mark.parametrize(('options', 'pixels'), [
    (dict(patch_size=4), 32), (dict(patch_size=[4, 4]), 32), (dict(patch_size=(4, 4)), 32),
    (dict(patch_size=(4, 2)), (32, 16)), (dict(out_indices=(0, 1)), 8),
    (dict(out_indices=(0, 1), out_after_downsample=True), 16),
    (dict(out_indices=(3, ), out_after_downsample=True), 32),
    (dict(arch=dict(embed_dims=16, depths=[2, 2], num_heads=[1, 2]), out_indices=(1, )), 8)])
def test_pixels_of_a_token_of_a_swin(loaded, options: dict, pixels: Any) -> None:
    cfg = deepcopy(loaded[SWIN])
    cfg.model.backbone.update(options)
    assert plain(add_mixing(cfg))['data_preprocessor']['patch_size'] == pixels


@pytest.mark.parametrize(('patch_size', 'pixels'), [
    (8, 8), ([8, 8], 8), ((8, 8), 8), ((8, 16), (8, 16))])
def test_pixels_of_a_token_of_a_vit(loaded, patch_size: Any, pixels: Any) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.backbone.patch_size = patch_size
    assert plain(add_mixing(cfg))['data_preprocessor']['patch_size'] == pixels


@pytest.mark.parametrize('value', [0, -4, 4., (4, ), (4, 4, 4, 4), 'big', None])
def test_a_size_is_one_number_or_two(loaded, value: Any) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.model.backbone.patch_size = value
    with pytest.raises(ValueError, match='`model.backbone.patch_size` must be a positive number'):
        add_mixing(cfg)


@pytest.mark.parametrize(('size', 'sides'), [(4, (4, 4)), ([4, 2], (4, 2)), ((4, 2), (4, 2))])
def test_two_sides_of_a_size(size: Any, sides: tuple[int, int]) -> None:
    assert two_sides('img_size', size) == sides


def test_mixing_refuses_a_preprocessor_that_it_cannot_replace(loaded) -> None:
    cfg = deepcopy(loaded[DEIT])
    cfg.data_preprocessor.type = 'SelfSupDataPreprocessor'
    with pytest.raises(ValueError, match='`data_preprocessor`'):
        add_mixing(cfg)


def test_a_fragment_is_that_of_a_hook_of_ours(tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text("diversity = dict(type='DiversityHook', terms=[])\n")
    with pytest.raises(ValueError, match="must define `diversity = dict.type='mmdiverse.*but got"):
        load_fragment(str(path))


def test_the_rest_of_a_fragment_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text(f'diversity = dict(type={HOOK!r})\ntrain_cfg = dict()\nwork_dir = "x"')
    assert left_out_of_fragment(str(path)) == ['train_cfg', 'work_dir']
    assert left_out_of_fragment('all') == []


@pytest.mark.parametrize('value', [
    float('inf'), -float('inf'), float('nan'), [dict(deep=(float('inf'), ))], {1, 2}, b'bytes',
    'C:\\new\n', {'\\bnorm': 1, "it's": 2}, {}, [], (1, ), None, np.float64(0.1)], ids=repr)
def test_what_is_written_is_read_again(value: Any) -> None:
    cfg = Config(dict(model=dict(value=value), rest=1))
    read = Config.fromstring(readable_text(cfg), '.py')
    assert repr(read.to_dict()) == repr(cfg.to_dict()).replace('np.float64(0.1)', '0.1')


@pytest.mark.parametrize('value', [
    torch.float16, np.ones(2), Path('data'), print, datetime.date(2026, 1, 1),
    lambda: 0], ids=lambda value: type(value).__name__)
def test_what_cannot_be_read_again_is_named(value: Any) -> None:
    cfg = Config(dict(rest=1, model=dict(parts=[2, dict(value=value)])))
    with pytest.raises(ValueError, match=r'`model.parts.1.value` \(.*would not be read as what'):
        readable_text(cfg)


def test_a_config_that_was_dumped_without_mmdiverse_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'dumped.py'
    path.write_text('clip_grad = dict(norm_type=inf, rest=[-inf, nan])\n')
    cfg = load_config(path)
    assert repr(plain(cfg)) == "{'clip_grad': {'norm_type': inf, 'rest': [-inf, nan]}}"
    assert cfg.filename == str(path)


def test_another_name_that_is_not_defined_stays_an_error(tmp_path: Path) -> None:
    path = tmp_path / 'broken.py'
    path.write_text('lr = inf * factor\n')
    with pytest.raises(NameError, match='factor'):
        load_config(path)


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
