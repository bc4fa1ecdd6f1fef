"""Terms: defaults, reductions, and every bad input with the config key that its error names."""
import math
from typing import Any

import pytest
import torch
from mmpretrain.models.backbones import (
    ResNet,
    SwinTransformer,
    TIMMBackbone,
    VisionTransformer,
)
from torch import nn

from mmdiverse.hooks import DiversityHook
from mmdiverse.losses import CosineLoss, mean_cosine
from mmdiverse.records import WeightRecord
from mmdiverse.registry import LOSSES
from mmdiverse.taps import Tap, build_tap
from mmdiverse.terms import DiversityTerm, build_loss, build_term
from tests.taps.families.swin import swin
from tests.taps.families.vit import vit

COSINE = dict(type='CosineLoss', on='patch', weight=0.5)
CONTRASTIVE = dict(type='ContrastiveLoss', on='patch', weight=0.5)


class Classifier(nn.Module):
    """What a hook attaches to."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


@pytest.fixture(scope='module')
def backbone() -> nn.Module:
    torch.manual_seed(0)
    backbone = vit()
    backbone.eval()
    return backbone


@pytest.fixture(scope='module')
def tap(backbone: nn.Module) -> Tap:
    return build_tap(backbone)


def evaluate(backbone: nn.Module, images: torch.Tensor | None = None, **term: Any) -> torch.Tensor:
    """The value of a term on a backbone."""
    term = DiversityTerm(**dict(COSINE, **term))
    tap = build_tap(backbone)
    tap.attach(term.requests(tap))
    torch.manual_seed(1)
    with tap.recording():
        backbone(torch.randn(3, 3, 12, 12) if images is None else images)
        value = term.evaluate(tap)
    tap.detach()
    return value


@pytest.mark.parametrize(('change', 'error', 'message'), [
    (dict(on='token'), ValueError, "`on` must be one of .*'patch'.*got 'token'"),
    (dict(weight=-0.1), ValueError, '`weight` must be finite and not negative, but got -0.1'),
    (dict(weight=math.nan), ValueError, '`weight` must be finite .*got nan'),
    (dict(weight=math.inf), ValueError, '`weight` must be finite .*got inf'),
    (dict(weight=True), TypeError, '`weight` must be a number, but got True'),
    (dict(weight='0.5'), TypeError, "`weight` must be a number, but got '0.5'"),
    (dict(type='CosinLoss'), ValueError, "`type` must be one of .*'CosineLoss'.*got 'CosinLoss'"),
    (dict(type='CosinLoss'), ValueError, "got 'CosinLoss'; did you mean 'CosineLoss'"),
    (dict(type='mmdiverse.CosinLoss'), ValueError, "did you mean 'CosineLoss'"),
    (dict(type='cosine_loss'), ValueError, "did you mean 'CosineLoss'"),
    (dict(temperature=2), TypeError, "CosineLoss.*form.*'temperature'$"),
    (dict(layer=-1), TypeError, "'form'.*'layers'.*but got 'layer'; did you mean 'layers'"),
    (dict(fomr='absolute'), TypeError, "but got 'fomr'; did you mean 'form'"),
    (dict(form='absolut'), ValueError, "but got 'absolut'; did you mean 'absolute'"),
    (dict(on='patchs'), ValueError, "but got 'patchs'; did you mean 'patch'"),
    (dict(reduction='Mean'), ValueError, "but got 'Mean'; did you mean 'mean'"),
    (dict(on='attention', heads='map'), ValueError, "but got 'map'; did you mean 'maps'"),
    (dict(on='weight', vectors='column'), ValueError, "did you mean 'columns'"),
    (dict(schedule=dict(type='LinearParamSchedular')), ValueError,
     "`schedule.type` .* 'LinearParamSchedular'; did you mean 'LinearParamScheduler'"),
    (dict(schedule=[dict(type='LinearParamScheduler', start_facto=0.1)]), TypeError,
     r"`schedule\[0\]`.*'start_facto'; did you mean 'start_factor'"),
    (dict(form='cubic'), ValueError, "`form` must be one of .*got 'cubic'"),
    (dict(reduction='max'), ValueError, "`reduction` must be one of .*'sum'.*got 'max'"),
    (dict(matrices=['q']), ValueError, "`matrices` needs `on='weight'`, but `on` is 'patch'"),
    (dict(vectors='columns'), ValueError, "`vectors` needs `on='weight'`, but `on` is 'patch'"),
    (dict(per_head=False), ValueError, "`per_head` needs `on='weight'`, but `on` is 'patch'"),
    (dict(heads='values'), ValueError, "`heads` needs `on='attention'`, but `on` is 'patch'"),
    (dict(on='attention', heads='keys'), ValueError, "`heads` must be one of .*got 'keys'"),
    (dict(on='weight', vectors='rows '), ValueError, "`vectors` must be one of .*got 'rows '"),
    (dict(schedule=dict(type='LinearParamScheduler', begin=5, end=5)), ValueError,
     '`schedule` ends before it starts: .* got 5 and 5'),
    (dict(schedule=[dict(type='LinearParamScheduler', begin=9, end=2)]), ValueError,
     r'`schedule\[0\]` ends before it starts: .* got 9 and 2'),
    (dict(type='GradientDiversityLoss', on='weight'), ValueError, 'cannot work at `on='),
    (dict(type='DisagreementLoss'), ValueError, r"only at \['attention'\]"),
    (dict(name='my_loss'), ValueError, "`name` must not contain 'loss', but got 'my_loss'"),
    (dict(CONTRASTIVE, on='weight'), ValueError, 'ContrastiveLoss cannot work at `on='),
    (dict(CONTRASTIVE, layers=-1), ValueError, '`layers` must hold exactly two, but got -1'),
    (dict(CONTRASTIVE, layers='all'), ValueError, "`layers` must hold exactly two, but got 'all'"),
    (dict(CONTRASTIVE, layers=[0, 1, 2]), ValueError, '`layers` must hold exactly two'),
    (dict(CONTRASTIVE, layers=0.5), ValueError, '`layers` must hold exactly two, but got 0.5'),
])
def test_bad_values_are_refused_when_the_hook_is_built(change: dict[str, Any], error: type,
                                                       message: str) -> None:
    with pytest.raises(error, match=r'DiversityHook terms\[1\] \([\w.]+\): .*' + message):
        DiversityHook(terms=[dict(COSINE, name='first'), dict(COSINE, **change)])


@pytest.mark.parametrize('missing', ['type', 'on', 'weight'])
def test_what_every_term_must_say(missing: str) -> None:
    term = {key: value for key, value in COSINE.items() if key != missing}
    with pytest.raises(TypeError, match=f"missing .*'{missing}'"):
        DiversityHook(terms=[term])


@pytest.mark.parametrize(('missing', 'instead'), [('weight', 'weigth'), ('on', 'On')])
def test_what_is_misspelt_is_not_called_missing(missing: str, instead: str) -> None:
    term = {instead if key == missing else key: value for key, value in COSINE.items()}
    with pytest.raises(TypeError, match=f'terms.0. .CosineLoss.: .*but got {instead!r}; did you '
                       f'mean {missing!r}'):
        DiversityHook(terms=[term])


def test_a_misspelt_type_is_asked_for() -> None:
    with pytest.raises(TypeError, match=r"missing 'type': every term needs \['type', 'on', "
                       r"'weight'\]; did you mean it by 'tpye'"):
        DiversityHook(terms=[dict(tpye='CosineLoss', on='patch', weight=1.)])


def test_a_loss_alone_knows_its_own_options() -> None:
    with pytest.raises(TypeError, match="CosineLoss.*'fomr'; did you mean 'form'"):
        build_loss('CosineLoss', fomr='absolute')


@pytest.mark.parametrize('terms', [COSINE, ['CosineLoss']])
def test_terms_must_be_a_list_of_dicts(terms: Any) -> None:
    with pytest.raises(TypeError, match='`terms` must be a list of dicts'):
        DiversityHook(terms=terms)


def test_two_terms_of_one_name() -> None:
    with pytest.raises(ValueError, match="2 terms share the name 'patch_cosine'; give each a `na"):
        DiversityHook(terms=[dict(COSINE, layers=0), dict(COSINE, layers=1)])


@pytest.mark.parametrize(('change', 'message'), [
    (dict(layers=9), '`layers` must hold block indices from -3 to 2.*got 9'),
    (dict(layers=-4), '`layers` must hold block indices.*got -4'),
    (dict(layers=0.5), '`layers` must hold block indices.*got 0.5'),
    (dict(on='attention', layers='embed'), "`layers` must hold block indices.*got 'embed'"),
    (dict(on='weight', layers='embed'), "`layers` must hold block indices.*got 'embed'"),
    (dict(layers='last'), "`layers` must hold block indices.*got 'last'; did you mean -1"),
    (dict(layers=['first', 1]), "got 'first'; did you mean 0"),
    (dict(layers='-1'), "got '-1'; did you mean -1, without quotes"),
    (dict(layers='All'), "got 'All'; did you mean 'all'"),
    (dict(layers='embedding'), "got 'embedding'; did you mean 'embed'"),
    (dict(on='weight', layers='embedding'), "got 'embedding'$"),
    (dict(on='weight', matrices=['q', 'query']), r"got \['query'\]; did you mean 'q'"),
    (dict(layers=[0, -3]), '`layers` names a block twice'),
    (dict(layers=[]), '`layers` is empty'),
    (dict(on='weight', matrices=['q', 'w']), r"`matrices` must be taken from .*got \['w'\]"),
    (dict(on='weight', matrices=['q', 'fc1'], per_head=True),
     r"`per_head=True` needs `matrices` .*got \['fc1'\]"),
])
def test_what_does_not_exist_is_refused_when_the_hook_attaches(
        backbone: nn.Module, change: dict[str, Any], message: str) -> None:
    hook = DiversityHook(terms=[dict(COSINE, name='first'), dict(COSINE, **change)])
    with pytest.raises(ValueError, match=r'DiversityHook terms\[1\] \(\w+\): .*' + message):
        hook.attach(Classifier(backbone))


def test_a_failed_attach_leaves_no_hook(backbone: nn.Module) -> None:
    model = Classifier(backbone)
    with pytest.raises(ValueError, match='`layers`'):
        DiversityHook(terms=[COSINE, dict(COSINE, name='x', layers=9)]).attach(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_backbone_that_no_tap_knows() -> None:
    with pytest.raises(ValueError, match='no tap knows the backbone ResNet .`model.backbone`.. docs'
                       '/coverage.md lists those that work') as error:
        DiversityHook(terms=[COSINE]).attach(Classifier(ResNet(18)))
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(('options', 'inner'), [
    (dict(), 'ResNet'), (dict(features_only=True), 'FeatureListNet')])
def test_a_model_of_timm_that_no_tap_knows(options: dict[str, bool], inner: str) -> None:
    with pytest.raises(ValueError, match="no tap knows the backbone TIMMBackbone with timm's "
                       rf'{inner} \(resnet10t\) \(`model.backbone`\)'):
        build_tap(TIMMBackbone('resnet10t', **options))


def test_a_model_without_backbone() -> None:
    with pytest.raises(ValueError, match='needs a model with a `backbone`, but Linear has none'):
        DiversityHook(terms=[COSINE]).attach(nn.Linear(1, 1))


@pytest.mark.parametrize(('options', 'expected'), [
    (dict(type='CosineLoss', on='patch'), [2]),
    (dict(type='CrossCosineLoss', on='patch'), ['embed', 2]),
    (dict(type='CosineLoss', on='attention'), [0]),
    (dict(type='CrossCosineLoss', on='attention'), [0, 2]),
    (dict(type='CosineLoss', on='weight'), [0, 1, 2]),
    (dict(type='CrossCosineLoss', on='weight'), [0, 2]),
])
def test_default_layers_are_those_of_the_paper(tap: Tap, options: dict[str, str],
                                               expected: list[int | str]) -> None:
    assert DiversityTerm(weight=1, **options).resolve(tap) == expected


@pytest.mark.parametrize(('options', 'expected'), [
    (dict(type='CosineLoss', on='patch'), 'patch_cosine'),
    (dict(type='mmdiverse.CosineLoss', on='patch'), 'patch_cosine'),
    (dict(type='ConditionalOrthogonalityLoss', on='weight'), 'weight_conditional_orthogonality'),
    (dict(type='CosineLoss', on='patch', name='mine'), 'mine'),
])
def test_name_in_the_log(options: dict[str, str], expected: str) -> None:
    assert DiversityTerm(weight=1, **options).name == expected


def test_default_matrices_are_queries_keys_and_values() -> None:
    assert DiversityTerm(**dict(COSINE, on='weight')).weights.matrices == ('q', 'k', 'v')


def test_options_reach_the_loss() -> None:
    loss = DiversityTerm(**COSINE, form='signed', diagonal=True).loss
    assert (loss.form, loss.diagonal) == ('signed', True)


@pytest.mark.parametrize('on', ['patch', 'attention', 'weight'])
def test_layers_are_averaged(backbone: nn.Module, on: str) -> None:
    single = [evaluate(backbone, on=on, layers=layer) for layer in range(3)]
    torch.testing.assert_close(evaluate(backbone, on=on, layers='all'), sum(single) / 3)


@pytest.mark.parametrize('on', ['patch', 'attention', 'weight'])
def test_layers_are_summed_on_request(backbone: nn.Module, on: str) -> None:
    single = [evaluate(backbone, on=on, layers=layer, reduction='sum') for layer in range(3)]
    torch.testing.assert_close(evaluate(backbone, on=on, layers='all', reduction='sum'),
                               sum(single))


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_images_are_always_averaged(backbone: nn.Module, reduction: str) -> None:
    images = torch.randn(3, 3, 12, 12)
    single = [evaluate(backbone, image[None], reduction=reduction) for image in images]
    torch.testing.assert_close(evaluate(backbone, images, reduction=reduction), sum(single) / 3)


@pytest.mark.parametrize(('reduction', 'factor'), [('mean', 1 / 3), ('sum', 1)])
def test_matrices_are_averaged_or_summed(backbone: nn.Module, reduction: str, factor: float
                                         ) -> None:
    single = [evaluate(backbone, on='weight', layers=0, matrices=[name], reduction=reduction)
              for name in ('q', 'k', 'proj')]
    together = evaluate(backbone, on='weight', layers=0, matrices=['q', 'k', 'proj'],
                        reduction=reduction)
    torch.testing.assert_close(together, factor * sum(single))


def test_the_first_of_two_layers_is_the_first_record(backbone: nn.Module) -> None:
    there = evaluate(backbone, type='ContrastiveLoss', layers=['embed', -1])
    back = evaluate(backbone, type='ContrastiveLoss', layers=[-1, 'embed'])
    assert there != back


def test_two_layers_of_different_stages_are_refused_in_the_forward_pass() -> None:
    with pytest.raises(ValueError, match='change `layers` of this term .in a Swin, stay within'):
        evaluate(swin(), torch.randn(1, 3, 16, 16), type='ContrastiveLoss', layers=[0, -1])


def test_fewer_than_two_vectors_are_refused_in_the_forward_pass() -> None:
    one_head = VisionTransformer(img_size=12, patch_size=4, arch=dict(
        embed_dims=16, num_layers=1, num_heads=1, feedforward_channels=8))
    with pytest.raises(ValueError, match="CosineLoss needs at least 2 vectors, but layer 0 has 1 "
                                         "at level 'attention'; change `layers` or `on`"):
        evaluate(one_head, on='attention')


def two_stages() -> SwinTransformer:
    """With a single head in the first stage."""
    return SwinTransformer(img_size=16, patch_size=2, window_size=4, out_indices=(1, ),
                           arch=dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2]))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(type='ContrastiveLoss', on='patch'),
     "at layer 'embed' a token stands for 2 x 2 pixels, and at layer 3 for 4 x 4; change `layers`"),
    (dict(type='CrossCosineLoss', on='attention', layers=[1, 2]), 'at layer 1 .* and at layer 2 '),
    (dict(type='CosineLoss', on='attention', layers='all'),
     "CosineLoss needs at least 2 vectors, but layer 0 has 1 at level 'attention'; change")])
def test_layers_are_checked_before_any_forward_pass(options: dict, message: str) -> None:
    tap = build_tap(two_stages())
    with pytest.raises(ValueError, match=message):
        DiversityTerm(weight=1., **options).check_layers(tap)


@pytest.mark.parametrize('options', [
    dict(type='ContrastiveLoss', on='patch', layers=[-2, -1]),
    dict(type='CrossCosineLoss', on='patch', layers=['embed', 1]),
    dict(type='CrossCosineLoss', on='attention', layers=[0, 1]),
    dict(type='SoftOrthogonalityLoss', on='weight', layers='all'),
    dict(type='CosineLoss', on='attention', layers=[2, 3]),
    dict(type='CosineLoss', on='patch', layers='all')])
def test_layers_that_fit_pass(options: dict) -> None:
    DiversityTerm(weight=1., **options).check_layers(build_tap(two_stages()))


@pytest.mark.parametrize('heads', ['values', 'outputs'])
def test_heads_are_what_the_term_says(backbone: nn.Module, heads: str) -> None:
    tap = build_tap(backbone)
    tap.attach([(heads, 1)])
    torch.manual_seed(1)
    with tap.recording():
        backbone(torch.randn(3, 3, 12, 12))
        expected = mean_cosine(tap.records(heads, 1)[0]).mean()
    tap.detach()
    torch.testing.assert_close(evaluate(backbone, on='attention', heads=heads, layers=1), expected)
    assert evaluate(backbone, on='attention', layers=1) != expected


def test_columns_and_heads_of_weights_are_vectors_on_request(backbone: nn.Module) -> None:
    weight = backbone.layers[1].attn.proj.weight
    options = dict(on='weight', matrices=['proj'], layers=1)
    for change, matrices in (
            (dict(vectors='columns'), weight.T[None]),
            (dict(per_head=True), torch.stack(weight.chunk(2, dim=1))),
            (dict(per_head=True, vectors='columns'), torch.stack(weight.T.chunk(2)))):
        torch.testing.assert_close(evaluate(backbone, **options, **change),
                                   mean_cosine(WeightRecord(matrices)).mean())


@pytest.mark.parametrize('name', ['q', 'k', 'v', 'proj', 'fc1', 'fc2'])
def test_every_matrix_has_a_gradient_to_itself_alone(backbone: nn.Module, name: str) -> None:
    evaluate(backbone, on='weight', matrices=[name], layers=1).backward()
    trained = [key for key, parameter in backbone.named_parameters() if parameter.grad is not None]
    backbone.zero_grad()
    paths = dict(proj='attn.proj', fc1='ffn.layers.0.0', fc2='ffn.layers.1')
    assert trained == [f'layers.1.{paths.get(name, "attn.qkv")}.weight']


@pytest.mark.parametrize('matrices', [[], 'qkv'])
def test_matrices_that_are_no_list_of_names(matrices: object) -> None:
    with pytest.raises(ValueError, match='`matrices` must be a list of names'):
        DiversityTerm(type='CosineLoss', on='weight', weight=1., matrices=matrices)


def test_name_that_is_no_string() -> None:
    with pytest.raises(TypeError, match='`name` must be a string'):
        DiversityTerm(type='CosineLoss', on='patch', weight=1., name=3)


def test_a_loss_that_hands_its_options_on_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handed(CosineLoss):
        def __init__(self, power: float = 1., **options: Any) -> None:
            super().__init__(**options)

    monkeypatch.setitem(LOSSES.module_dict, 'Handed', Handed)
    term = build_term(dict(type='Handed', on='patch', weight=1., form='absolute'))
    assert term.loss.form == 'absolute'
