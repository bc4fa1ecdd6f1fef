"""Transfer of backbones: every weight accounted for, EMA or not, and what keeps it from working."""
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn

from mmdiverse.config import load_config, type_name
from mmdiverse.hooks import PretrainedCheckHook
from mmdiverse.transfer import (
    Pretrained,
    check_average_fits,
    check_pretrained,
    check_transfer,
    find_pretrained,
    pretrained_of,
    read_pretrained,
)
from tests.runs import CONFIGS, digits_config, train

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
VIT = dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=4)
SWIN = dict(type='mmpretrain.SwinTransformer', img_size=16, patch_size=2, window_size=4,
            arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]), out_indices=(1, ))
TIMM = dict(type='mmpretrain.TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=16,
            patch_size=4, depth=2, embed_dim=16, num_heads=2, mlp_ratio=2)


def save(path: Path, backbone: dict, prefix: str = 'backbone.', **content: Any) -> str:
    torch.manual_seed(0)
    state = {prefix + key: value for key, value in MODELS.build(backbone).state_dict().items()}
    torch.save(dict(dict(state_dict={**state, 'head.fc.weight': torch.zeros(1)}), **content), path)
    return str(path)


def detector(backbone: dict, checkpoint: str | None = None, **options: Any) -> Config:
    init = checkpoint and dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    return Config(dict(model=dict(backbone=dict(backbone, init_cfg=init, **options)),
                       default_scope='mmpretrain'))


def statuses(cfg: Config, checkpoint: str | None = None) -> Counter:
    return Counter(fit.status for fit in check_transfer(cfg, checkpoint))


@pytest.mark.parametrize(('backbone', 'options', 'others'), [
    (VIT, dict(out_type='featmap'), {}),
    (VIT, dict(out_type='featmap', img_size=24, out_indices=(0, 1)), dict(pos_embed='resized')),
    (SWIN, {}, {}),
    (SWIN, dict(out_indices=(0, 1), pad_small_map=True),
     {'norm0.weight': 'new', 'norm0.bias': 'new'}),
])
def test_every_weight_is_accounted_for(tmp_path: Path, backbone: dict, options: dict,
                                       others: dict) -> None:
    cfg = detector(dict(backbone, **options), save(tmp_path / 'a.pth', backbone))
    weights = MODELS.build(dict(cfg.model.backbone, init_cfg=None)).state_dict()
    assert {fit.name: fit.status for fit in check_transfer(cfg)} == \
        {key: others.get(key, 'loaded') for key in weights}


def test_what_is_loaded_is_what_the_host_loads(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    cfg = detector(dict(VIT, out_type='featmap', img_size=24), path)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    state = torch.load(path)['state_dict']
    loaded = {fit.name for fit in check_transfer(cfg) if fit.status == 'loaded'}
    assert loaded == {key for key, value in backbone.state_dict().items()
                      if value.shape == state[f'backbone.{key}'].shape
                      and torch.equal(value, state[f'backbone.{key}'])}


def test_what_is_wrong_with_a_weight_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', dict(VIT, arch=dict(ARCH, num_layers=3)))
    cfg = detector(dict(VIT, out_type='featmap', arch=dict(ARCH, feedforward_channels=48)), path)
    by_name = {fit.name: fit for fit in check_transfer(cfg)}
    assert by_name['layers.0.ffn.layers.1.weight'].status == 'mismatched'
    assert by_name['layers.0.ffn.layers.1.weight'][2:] == ((16, 48), (16, 32))
    assert by_name['layers.2.ln1.bias'].status == 'unexpected'
    cfg = detector(dict(VIT, out_type='featmap', arch=dict(ARCH, num_layers=4)), path)
    assert {fit.name for fit in check_transfer(cfg) if fit.status == 'missing'} == \
        {key for key in MODELS.build(dict(cfg.model.backbone, init_cfg=None)).state_dict()
         if key.startswith('layers.3.')}


def sources(backbone: dict, **init: Any) -> Pretrained:
    """What the backbone of a model starts from."""
    model = nn.Module()
    model.backbone = MODELS.build(dict(backbone, init_cfg=dict(type='Pretrained', **init)))
    source, = find_pretrained(model)
    return source


def test_the_parameters_that_a_checkpoint_fills_are_counted(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    for prefix in ('backbone', 'backbone.'):
        assert check_pretrained(sources(VIT, checkpoint=path, prefix=prefix)) == (True, (
            '`model.backbone.init_cfg`: 30 of the 30 parameters of VisionTransformer are in '
            f'{path} below {prefix!r}'))
    larger = sources(dict(VIT, img_size=24), checkpoint=path, prefix='backbone')
    assert check_pretrained(larger)[1].endswith("below 'backbone', 1 of them resized")
    deeper = sources(dict(VIT, arch=dict(ARCH, num_layers=3)), checkpoint=path, prefix='backbone')
    assert check_pretrained(deeper) == (False, (
        f'`model.backbone.init_cfg`: 30 of the 42 parameters of VisionTransformer are in {path} '
        "below 'backbone'; missing: layers.2.ln1.weight, layers.2.ln1.bias and 10 more"))


def test_what_is_counted_is_what_the_host_loads(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    for prefix, loads in (('backbone', True), (None, False)):
        source = sources(VIT, checkpoint=path, prefix=prefix)
        if loads:
            assert check_pretrained(source)[0]
        else:
            with pytest.raises(ValueError, match='0 of the 30 parameters'):
                check_pretrained(source)
        source.module.init_weights()
        expected = torch.load(path)['state_dict']['backbone.layers.0.attn.qkv.weight']
        assert torch.equal(source.module.layers[0].attn.qkv.weight, expected) is loads


@pytest.mark.parametrize(('before', 'place', 'given', 'advice'), [
    ('backbone.', 'state_dict', None, "set `model.backbone.init_cfg.prefix='backbone'`"),
    ('backbone.', 'state_dict', 'bakbone', "set `model.backbone.init_cfg.prefix='backbone'`"),
    ('', 'state_dict', 'backbone', 'leave out `model.backbone.init_cfg.prefix`'),
    ('module.backbone.', 'state_dict', 'backbone',
     "set `model.backbone.init_cfg.prefix='module.backbone'`"),
    ('model.backbone.', 'state_dict', 'backbone',
     "set `model.backbone.init_cfg.prefix='model.backbone'`"),
    ('backbone.', 'model', 'backbone',
     "below 'model', where MMEngine does not look: save them as `state_dict`"),
    ('module.backbone.', 'ema_state_dict', 'backbone',
     "below 'ema_state_dict', where MMEngine does not look: save them as `state_dict`"),
    ('backbone.blocks.', 'state_dict', 'backbone', 'tools/convert_checkpoint.py'),
])
def test_a_checkpoint_that_fills_few_says_what_to_change(
        before: str, place: str, given: str | None, advice: str, tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT, before)
    state = torch.load(path)['state_dict']
    if 'blocks' in before:
        state = {key.replace('.layers.', '.'): value for key, value in state.items()}
        state = {key: value[..., :1] for key, value in state.items()}
    torch.save({place: state}, path)
    with pytest.raises(ValueError, match='`model.backbone.init_cfg`: 0 of the 30 parameters of '
                                         'VisionTransformer') as error:
        check_pretrained(sources(VIT, checkpoint=path, prefix=given))
    assert str(error.value).endswith(advice)


def test_a_checkpoint_that_there_is_not_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(OSError, match='`model.backbone.init_cfg`: there is no checkpoint nowhere'):
        check_pretrained(sources(VIT, checkpoint='nowhere.pth', prefix='backbone'))
    torch.save([1], tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='expected a dict of tensors, but got a list'):
        check_pretrained(sources(VIT, checkpoint=str(tmp_path / 'a.pth')))


def test_named_weights_are_counted_as_well(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    state = torch.load(path)['state_dict']
    torch.save(dict(state_dict=state, ema_state_dict={
        f'module.{key}': value for key, value in state.items()}), path)
    for which in ('ema', 'model'):
        assert check_pretrained(sources(VIT, checkpoint=f'{which}:{path}', prefix='backbone'))[0]


def classifier(path: str) -> Pretrained:
    """A whole model that starts from a checkpoint, by the short key."""
    cfg = load_config(CONFIGS / 'digits/deit-nano_digits.py').model.to_dict()
    cfg = dict(cfg, type='mmpretrain.ImageClassifier', pretrained=path)
    cfg['head'] = dict(type='mmpretrain.VisionTransformerClsHead', in_channels=48, num_classes=10)
    cfg['backbone'] = dict(cfg['backbone'], type='mmpretrain.VisionTransformer',
                           out_type='cls_token')
    source, = find_pretrained(MODELS.build(cfg), cfg)
    return source


def test_adapters_are_put_in_behind_the_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    model = MODELS.build(dict(
        type='mmpretrain.LoRAModel', rank=2, alpha=1,
        targets=[dict(type='qkv'), dict(type='.*proj')],
        module=dict(VIT, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone'))))
    source, = find_pretrained(model)
    whole, text = check_pretrained(source)
    assert whole and 'missing' not in text and 'unexpected' not in text


def test_what_translates_a_checkpoint_itself_is_not_judged(tmp_path: Path) -> None:
    class Translating(VisionTransformer):
        def init_weights(self) -> None:
            """As backbones of MMDetection do."""

    path = save(tmp_path / 'a.pth', VIT, prefix='other.')
    options = {key: value for key, value in VIT.items() if key != 'type'}
    init = dict(type='Pretrained', checkpoint=path)
    source, = find_pretrained(Translating(**options, init_cfg=init))
    whole, text = check_pretrained(source)
    assert not whole and 'Translating reads' in text and 'rules of its own' in text
    source, = find_pretrained(VisionTransformer(**options, init_cfg=init))
    with pytest.raises(ValueError, match='would train from random weights'):
        check_pretrained(source)


def test_a_head_of_other_classes_is_said_and_no_failure(tmp_path: Path) -> None:
    path = str(tmp_path / 'a.pth')
    cfg = classifier(path)
    torch.save(cfg.module.state_dict(), path)
    assert check_pretrained(cfg) == (True, (
        f'`model.pretrained`: 56 of the 56 parameters of ImageClassifier are in {path}'))
    other = classifier(path)
    other.module.head.layers.head = nn.Linear(48, 3)
    assert check_pretrained(other) == (False, (
        f'`model.pretrained`: 54 of the 56 parameters of ImageClassifier are in {path}; of another '
        'shape: head.layers.head.weight, head.layers.head.bias'))
    torch.save(other.module.backbone.state_dict(), path)
    with pytest.raises(ValueError, match=re.escape(
            "they are those of `backbone` alone: set `model.backbone.init_cfg=dict(type='Pretrained"
            "', checkpoint=...)` instead")):
        check_pretrained(classifier(path))


def test_lists_and_overrides_are_found(tmp_path: Path) -> None:
    part = dict(type='Pretrained', checkpoint='part.pth', prefix='patch_embed')
    model = MODELS.build(dict(VIT, init_cfg=[
        dict(type='Constant', layer='Linear', val=0., override=dict(part, name='patch_embed')),
        dict(type='mmengine.Pretrained', checkpoint='whole.pth')]))
    assert [(each.key, type(each.module).__name__, each.checkpoint, each.prefix)
            for each in find_pretrained(model)] == [
        ('model.init_cfg[0].override', 'PatchEmbed', 'part.pth', 'patch_embed'),
        ('model.init_cfg[1]', 'VisionTransformer', 'whole.pth', None)]


def test_the_checkpoint_among_several_init_cfgs_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    cfg = detector(dict(VIT, out_type='featmap'), path)
    cfg.model.backbone.init_cfg = [dict(type='TruncNormal', layer='Linear'),
                                   cfg.model.backbone.init_cfg]
    assert pretrained_of(cfg) == path
    cfg.model.backbone.init_cfg.pop()
    assert pretrained_of(cfg) is None


def test_timm_models_fill_those_of_mmpretrain(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', TIMM)
    assert statuses(detector(dict(VIT, out_type='featmap'), path)) == dict(loaded=30)


def with_average(path: Path) -> tuple[nn.Module, nn.Module, str]:
    """A checkpoint as EMAHook saves it, and the model and the average in it."""
    cfg = digits_config('deit-nano_digits', path, batches=2)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.5)]
    runner = train(cfg)
    average = next(hook for hook in runner.hooks if hasattr(hook, 'ema_model')).ema_model
    assert isinstance(average, ExponentialMovingAverage)
    return runner.model, average.module, str(path / 'epoch_1.pth')


def test_the_average_is_chosen_by_name(tmp_path: Path) -> None:
    model, average, path = with_average(tmp_path)
    for which, expected in (('model', model), ('ema', average)):
        state = read_pretrained(f'{which}:{path}')
        assert state.keys() == expected.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in expected.state_dict().items())
    arch = Config.fromfile(Path(__file__).parents[1] / 'configs/digits/deit-nano_digits.py').model
    for which, expected in (('model', model), ('ema', average)):
        backbone = MODELS.build(detector(dict(
            arch.backbone, type='mmpretrain.VisionTransformer', out_type='featmap'),
            f'{which}:{path}').model.backbone)
        backbone.init_weights()
        assert torch.equal(backbone.cls_token, expected.backbone.cls_token)
    assert not torch.equal(model.backbone.cls_token, average.backbone.cls_token)
    with pytest.raises(ValueError, match=f'say which: ema:{path} or model:{path}'):
        read_pretrained(path)


def test_an_average_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    with pytest.raises(ValueError, match=f'no averaged weights, .*EMAHook; take model:{path}'):
        read_pretrained(f'ema:{path}')
    assert read_pretrained(f'model:{path}').keys() == read_pretrained(path).keys()


@pytest.mark.parametrize('prefix', ['', 'module.backbone.', 'encoder.'])
def test_checkpoints_without_backbone_keys_are_an_error(tmp_path: Path, prefix: str) -> None:
    path = save(tmp_path / 'a.pth', VIT, prefix)
    with pytest.raises(ValueError, match=r"no weight whose key starts with 'backbone\.'.*"
                                         'convert_checkpoint.py'):
        check_transfer(detector(dict(VIT, out_type='featmap'), path))


@pytest.mark.parametrize('out_type', ['cls_token', 'raw', 'avg_featmap'])
def test_feature_maps_are_asked_of_a_vit(tmp_path: Path, out_type: str) -> None:
    path = save(tmp_path / 'a.pth', VIT)
    with pytest.raises(ValueError, match=f"gives `out_type='{out_type}'`.*"
                                         "set `model.backbone.out_type='featmap'`"):
        check_transfer(detector(dict(VIT, out_type=out_type), path))


def test_other_windows_are_explained_where_the_host_cannot_resize_them(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.pth', SWIN)
    cfg = detector(dict(SWIN, window_size=2), path)
    try:
        from scipy.interpolate import interp2d
        interp2d([0, 1, 2], [0, 1, 2], [0] * 9)
    except (ImportError, NotImplementedError):
        with pytest.raises(ValueError, match='windows of 4, but the backbone windows of 2.*'
                                             '`model.backbone.window_size=4`.*scipy<1.14'):
            check_transfer(cfg)
    else:
        assert statuses(cfg)['resized'] == 4


def test_nothing_to_load_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='starts from random weights: name a checkpoint'):
        check_transfer(detector(dict(VIT, out_type='featmap')))
    with pytest.raises(ValueError, match='with `model.backbone`'):
        check_transfer(Config(dict(model=dict(type='GPT'))))
    with pytest.raises(OSError, match='there is no checkpoint .*b.pth'):
        check_transfer(detector(dict(VIT, out_type='featmap'), f'ema:{tmp_path / "b.pth"}'))


class Segmentor(nn.Module):
    """What the hook looks at."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def runner_of(tmp_path: Path, backbone: dict, init: dict | None) -> Runner:
    """A run of a classifier whose backbone starts from a checkpoint."""
    cfg = digits_config('deit-nano_digits', tmp_path / 'run')
    cfg.model.backbone = dict(cfg.model.backbone, **backbone, init_cfg=init)
    cfg.model.neck = dict(type='GlobalAveragePooling')
    cfg.model.head = dict(type='LinearClsHead', num_classes=10, in_channels=48)
    cfg.custom_hooks = [dict(type='mmdiverse.PretrainedCheckHook')]
    return Runner.from_cfg(cfg)


def init(path: str) -> dict:
    return dict(type='Pretrained', checkpoint=path, prefix='backbone.')


@pytest.fixture(scope='module')
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint of a run of a recipe."""
    folder = tmp_path_factory.mktemp('nano')
    train(digits_config('deit-nano_digits', folder))
    return str(folder / 'epoch_1.pth')


def test_a_run_starts_from_the_checkpoint(tmp_path: Path, nano: str) -> None:
    runner_of(tmp_path, dict(out_type='featmap'), init(nano)).train()


def test_a_half_filled_backbone_ends_the_run_before_its_first_step(tmp_path: Path, nano: str
                                                                   ) -> None:
    arch = dict(embed_dims=48, num_layers=5, num_heads=3, feedforward_channels=192)
    runner = runner_of(tmp_path, dict(out_type='featmap', arch=arch), init(nano))
    with pytest.raises(ValueError, match=r'does not fill the backbone .*layers\.4\.ln1\.weight '
                                         r'\(missing\).* and \d+ more'):
        runner.train()
    assert runner.iter == 0


def test_a_backbone_that_is_initialized_afterwards_ends_the_run(tmp_path: Path, nano: str,
                                                                monkeypatch: pytest.MonkeyPatch
                                                                ) -> None:
    runner = runner_of(tmp_path, dict(out_type='featmap'), init(nano))
    load = VisionTransformer.init_weights

    def init_weights(self: VisionTransformer) -> None:
        load(self)
        nn.init.zeros_(self.cls_token)

    monkeypatch.setattr(VisionTransformer, 'init_weights', init_weights)
    with pytest.raises(RuntimeError, match='`cls_token` of the backbone is not what .*epoch_1.pth'):
        runner.train()
    assert runner.iter == 0


def test_random_weights_are_left_alone(tmp_path: Path) -> None:
    hook = PretrainedCheckHook()
    runner = runner_of(tmp_path, dict(out_type='featmap'), None)
    hook.before_run(runner)
    hook.before_train(runner)


def test_the_loader_is_mmengines(tmp_path: Path) -> None:
    from mmengine.runner import CheckpointLoader

    path = save(tmp_path / 'a.pth', VIT)
    loaded = CheckpointLoader.load_checkpoint(f'model:{path}', map_location='cpu')
    assert {type(value) for value in loaded['state_dict'].values()} == {Tensor}


def narrowed(backbone: dict) -> dict:
    """A backbone of the same kind with two narrow blocks or stages."""
    narrow = {key: value for key, value in backbone.items() if key != 'init_cfg'}
    if type_name(narrow) == 'TIMMBackbone':
        return dict(TIMM, patch_size=narrow.get('patch_size', 16), img_size=64)
    if type_name(narrow) == 'SwinTransformer':
        stages = len(narrow['arch']['depths']) if isinstance(narrow['arch'], dict) else 4
        arch = dict(embed_dims=8, depths=[1] * stages, num_heads=[1] * stages)
    else:
        arch = ARCH
    return dict(narrow, arch=arch, type=f'mmpretrain.{type_name(narrow)}')


def feature_maps(backbone: dict) -> dict:
    """The backbone of a detector that takes the weights of a recipe's."""
    if type_name(backbone) == 'SwinTransformer':
        narrow = narrowed(backbone)
        stages = range(len(narrow['arch']['depths']))
        return dict(narrow, out_indices=tuple(stages), pad_small_map=True)
    ours = {key: value for key, value in narrowed(backbone).items()
            if key in ('img_size', 'patch_size', 'final_norm')}
    return dict(ours, type='mmpretrain.VisionTransformer', arch=ARCH, out_type='featmap')


# Those of a single level have the backbones of `diverse`.
RECIPES = sorted(path for path in CONFIGS.glob('[!_]*/*.py') if '_diverse-' not in path.stem)


def test_the_checkpoint_of_every_recipe_fills_a_backbone(tmp_path: Path) -> None:
    seen = {}
    for path in RECIPES:
        backbone = load_config(path).model.backbone.to_dict()
        seen.setdefault(repr(narrowed(backbone)), (path, backbone))
    assert len(seen) > 5
    for path, backbone in seen.values():
        checkpoint = save(tmp_path / 'a.pth', narrowed(backbone))
        found = statuses(detector(feature_maps(backbone), checkpoint))
        assert set(found) <= {'loaded', 'new'}, (path, found)
        assert found['loaded'] > 20


def fine_tuned(folder: Path, classes: int, **options: Any) -> Config:
    """A run with an average of the weights, on digits that have more classes."""
    cfg = digits_config('deit-nano_digits', folder, custom_hooks=[dict(type='EMAHook')], **options)
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = classes
    return cfg


def test_an_average_for_other_classes_is_refused_with_what_to_set(tmp_path: Path) -> None:
    train(fine_tuned(tmp_path / 'first', classes=10))
    path = str(tmp_path / 'first' / 'epoch_1.pth')
    check_average_fits(fine_tuned(tmp_path, classes=10, load_from=path))
    for change in (dict(load_from=path, resume=True), dict(load_from=None)):
        check_average_fits(fine_tuned(tmp_path, classes=12, **change))
    with pytest.raises(ValueError, match=r'for 10 classes, but `model\.head\.num_classes` is 12.*'
                       f"set `load_from='ema:{path}'`"):
        check_average_fits(fine_tuned(tmp_path, classes=12, load_from=path))

    hosts_own = fine_tuned(tmp_path, classes=12, load_from=path)
    hosts_own.custom_hooks[0].type = 'mmengine.EMAHook'
    check_average_fits(hosts_own)

    cfg = fine_tuned(tmp_path / 'second', classes=12, load_from=f'ema:{path}')
    check_average_fits(cfg)
    cfg.optim_wrapper.optimizer.lr = 0.
    cfg.param_scheduler = []
    runner = train(cfg)
    given = torch.load(path)['state_dict']['backbone.pos_embed']
    assert torch.equal(runner.model.backbone.pos_embed, given)
    average = torch.load(tmp_path / 'second' / 'epoch_1.pth')['state_dict']
    assert torch.equal(average['head.layers.head.weight'], runner.model.head.layers.head.weight)
