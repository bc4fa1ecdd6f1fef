"""Random settings on random tiny backbones: valid ones train, invalid ones are explained.

What is valid is said here once more, from the documentation alone. ``HYPOTHESIS_PROFILE=thorough``
runs twenty times as many examples, and other ones every time.
"""
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks import DropPath
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mmdiverse
from mmdiverse.hooks import DiversityHook
from mmdiverse.registry import LOSSES

THOROUGH = os.environ.get('HYPOTHESIS_PROFILE') == 'thorough'
PACKAGE = Path(mmdiverse.__file__).parent
CLASSES = 5
EPOCHS, EPOCH_LENGTH = 2, 2
OURS = (TypeError, ValueError, RuntimeError)


def examples(number: int) -> settings:
    """So many examples, the same every time; twenty times as many where that is asked for."""
    return settings(deadline=None, database=None, derandomize=not THOROUGH, print_blob=True,
                    max_examples=number * (20 if THOROUGH else 1),
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


# Networks


class Block(NamedTuple):
    """What a block looks like from outside; ``tokens`` are patches."""

    width: int
    heads: int
    hidden: int
    tokens: int
    stage: int = 0


class Pool(nn.Module):
    """A neck for timm's tokens, as MMPretrain has none: the first token, or the mean of all."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first

    def forward(self, feats: tuple[Tensor]) -> tuple[Tensor]:
        return (feats[-1][:, 0] if self.first else feats[-1].mean(1), )


@dataclass(frozen=True)
class Network:
    """A tiny classifier, and what its documentation says of its layers."""

    family: str
    blocks: tuple[Block, ...]
    patch: int = 2
    window: int = 2

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def image(self) -> int:
        return int(self.blocks[0].tokens**0.5) * self.patch

    @property
    def head_reads_patches(self) -> bool:
        """Whether the head sees the patches of the last block, and not prefix tokens alone."""
        return self.family in ('vit without class token', 'swin', 'timm without class token')

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        backbone, neck, head = PARTS[self.family](self)
        head = dict(num_classes=CLASSES, in_channels=self.blocks[-1].width, **head)
        return MODELS.build(dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head,
                                 _scope_='mmpretrain')).train()

    def batch(self, size: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(size)
        inputs = torch.randn(size, 3, self.image, self.image, generator=generator)
        return dict(inputs=inputs, data_samples=[
            DataSample().set_gt_label(index % CLASSES) for index in range(size)])

    def stage(self, layer: int | str) -> int:
        return self.blocks[0 if layer == 'embed' else layer].stage


Parts = tuple[dict, Any, dict]


def vit_parts(net: Network, type: str = 'VisionTransformer', head: str = 'VisionTransformerClsHead',
              **options: Any) -> Parts:
    block = net.blocks[0]
    arch = dict(embed_dims=block.width, num_layers=net.depth, num_heads=block.heads,
                feedforward_channels=block.hidden)
    return dict(type=type, arch=arch, img_size=net.image, patch_size=net.patch,
                drop_path_rate=0.1, **options), None, dict(type=head)


def swin_parts(net: Network) -> Parts:
    stages = [[block for block in net.blocks if block.stage == stage]
              for stage in range(net.blocks[-1].stage + 1)]
    arch = dict(embed_dims=net.blocks[0].width, depths=[len(stage) for stage in stages],
                num_heads=[stage[0].heads for stage in stages])
    backbone = dict(type='SwinTransformer', arch=arch, img_size=net.image, patch_size=net.patch,
                    window_size=net.window, out_indices=(len(stages) - 1, ))
    return backbone, dict(type='GlobalAveragePooling'), dict(type='LinearClsHead')


def timm_parts(net: Network, first: bool, **options: Any) -> Parts:
    block = net.blocks[0]
    backbone = dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=net.image,
                    patch_size=net.patch, depth=net.depth, embed_dim=block.width,
                    num_heads=block.heads, mlp_ratio=block.hidden / block.width, **options)
    return backbone, Pool(first), dict(type='LinearClsHead')


PARTS: dict[str, Callable[[Network], Parts]] = {
    'vit': vit_parts,
    'vit without class token': lambda net: vit_parts(
        net, head='LinearClsHead', with_cls_token=False, out_type='avg_featmap'),
    'distilled': lambda net: vit_parts(net, 'DistilledVisionTransformer', 'DeiTClsHead'),
    'swin': swin_parts,
    'timm': lambda net: timm_parts(net, first=True),
    'timm without class token': lambda net: timm_parts(
        net, first=False, class_token=False, global_pool='avg'),
}


@st.composite
def networks(draw: st.DrawFn, families: tuple[str, ...] = tuple(PARTS), **block: int) -> Network:
    """Any of the families; keywords fix what a block looks like."""
    family, patch = draw(st.sampled_from(families)), draw(st.sampled_from([2, 3]))
    heads = block.get('heads') or draw(st.sampled_from([2, 1, 3, 4]))
    width = block.get('width') or heads * draw(st.sampled_from([2, 1, 4, 8]))
    ratio = draw(st.sampled_from([1, 2]))
    if family == 'swin':
        window, stages = draw(st.sampled_from([1, 2])), draw(st.integers(1, 2))
        # MMPretrain shifts the windows of every second block, and MLPs are four times as wide.
        side = window * draw(st.sampled_from([2, 4] if window == 1 else [2]))
        blocks = [Block(width * 2**stage, heads * 2**stage, 4 * width * 2**stage,
                        (side // 2**stage)**2, stage)
                  for stage in range(stages) for _ in range(draw(st.integers(1, 2)))]
        return Network(family, tuple(blocks), patch, window)
    side = draw(st.integers(2, 4))
    only = Block(width, heads, ratio * width, block.get('tokens') or side * side)
    return Network(family, (only, ) * draw(st.integers(1, 4)), patch)


# Terms


@dataclass(frozen=True)
class Rules:
    """What the documentation says of a loss.

    Attributes:
        levels: Where it works.
        layers: How many it takes.
        vectors: The fewest vectors for which it is defined.
        options: Some values of every option; one of each is drawn.
    """

    levels: tuple[str, ...] = ('patch', 'attention', 'weight')
    layers: int = 1
    vectors: int = 2
    options: tuple[tuple[str, st.SearchStrategy], ...] = ()

    def least(self, options: dict[str, Any]) -> int:
        return 1 if options.get('diagonal') else self.vectors


def rules(levels: tuple[str, ...] = Rules.levels, layers: int = 1, vectors: int = 2,
          **options: st.SearchStrategy) -> Rules:
    return Rules(levels, layers, vectors, tuple(options.items()))


FORM = st.sampled_from(['signed', 'absolute', 'squared'])
BOOL = st.booleans()
STEPS = st.integers(1, 3)

CATALOGUE = {
    'ConditionalOrthogonalityLoss': rules(
        method=st.sampled_from(['exact', 'power', 'official']), steps=STEPS, normalize=BOOL,
        start=st.sampled_from(['uniform', 'normal']), eps=st.sampled_from([0, 0., 1e-6, 1.])),
    'ContrastiveLoss': rules(('patch', 'attention'), 2, stop_gradient=BOOL, normalize=BOOL),
    'CosineLoss': rules(form=FORM, diagonal=BOOL),
    'CrossCosineLoss': rules(layers=2, vectors=1, form=FORM),
    'DisagreementLoss': rules(('attention', ), normalize=BOOL),
    'GradientDiversityLoss': rules(('patch', ), form=st.sampled_from(['coherence', 'diversity'])),
    'GramDeterminantLoss': rules(bandwidth=st.floats(1e-3, 1e2), jitter=st.floats(1e-8, 1.),
                                 official=BOOL),
    'HypersphericalEnergyLoss': rules(power=st.floats(0, 4) | st.integers(0, 3), half_space=BOOL,
                                      eps=st.floats(1e-6, 1.)),
    'HypersphericalSeparationLoss': rules(temperature=st.just(0) | st.floats(1e-3, 1e2),
                                          official=BOOL),
    'RankCollapseLoss': rules(),
    'SRIPLoss': rules(method=st.sampled_from(['exact', 'power']), steps=STEPS, normalize=BOOL),
    'SoftOrthogonalityLoss': rules(normalize=BOOL),
}
MATRICES = ('q', 'k', 'v', 'proj', 'fc1', 'fc2')
SCHEDULERS: dict[str, dict[str, st.SearchStrategy]] = {
    'Constant': dict(factor=st.floats(0.01, 1)),
    'CosineAnnealing': dict(eta_min=st.floats(0, 1)),
    'Exponential': dict(gamma=st.floats(0.1, 1.5)),
    'Linear': dict(start_factor=st.floats(1e-3, 1), end_factor=st.floats(0, 1)),
    'MultiStep': dict(milestones=st.lists(st.integers(1, 3), min_size=1, unique=True).map(sorted),
                      gamma=st.floats(0, 1)),
    'Poly': dict(power=st.floats(0.5, 2), eta_min=st.floats(0, 1)),
    'Step': dict(step_size=st.integers(1, 3), gamma=st.floats(0, 1)),
}


def maybe(draw: st.DrawFn, **values: st.SearchStrategy) -> dict[str, Any]:
    """Some of the keys, the others left at their default."""
    return {key: draw(value) for key, value in values.items() if draw(BOOL)}


@st.composite
def schedulers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted(SCHEDULERS)))
    by_epoch = draw(BOOL)
    begin = draw(st.integers(0, 1))
    end = maybe(draw, end=st.integers(begin + 1, 4))
    convert = maybe(draw, convert_to_iter_based=BOOL) if by_epoch else {}
    return dict(type=f'{kind}ParamScheduler', by_epoch=by_epoch, begin=begin, **end, **convert,
                **{key: draw(value) for key, value in SCHEDULERS[kind].items()})


def num_vectors(net: Network, term: dict[str, Any], layer: int | str) -> int:
    """The fewest vectors that a term meets at a layer."""
    block = net.blocks[0 if layer == 'embed' else layer]
    if term['on'] == 'patch':
        return block.tokens
    if term['on'] == 'attention':
        return block.heads
    share = block.width // block.heads if term.get('per_head') else block.width
    shapes = dict(q=(share, block.width), proj=(block.width, share),
                  fc1=(block.hidden, block.width), fc2=(block.width, block.hidden))
    shapes.update(k=shapes['q'], v=shapes['q'])
    place = 1 if term.get('vectors') == 'columns' else 0
    return min(shapes[name][place] for name in term.get('matrices', ('q', 'k', 'v')))


def usable_layers(net: Network, term: dict[str, Any]) -> list[int | str]:
    """The layers at which a term is defined, each once."""
    least = CATALOGUE[term['type']].least(term)
    found = [layer for layer in (*['embed'][:term['on'] == 'patch'], *range(net.depth))
             if num_vectors(net, term, layer) >= least]
    if term['type'] == 'GradientDiversityLoss' and not net.head_reads_patches:
        return [layer for layer in found if layer != net.depth - 1]
    return found


@st.composite
def layers_of(draw: st.DrawFn, net: Network, term: dict[str, Any]) -> Any:
    """A valid `layers` of a term, or None where there is none."""
    found = usable_layers(net, term)
    if CATALOGUE[term['type']].layers == 2:
        pairs = [(a, b) for a in found for b in found
                 if a != b and net.stage(a) == net.stage(b)]
        chosen = draw(st.sampled_from(pairs)) if pairs else ()
    else:
        chosen = draw(st.lists(st.sampled_from(found), min_size=1, unique=True)) if found else ()
        if found[-net.depth:] == list(range(net.depth)) and draw(st.sampled_from([0, 0, 1])):
            return 'all'
    # Blocks may be counted from the end, and one layer needs no list.
    chosen = [layer - net.depth if layer != 'embed' and draw(BOOL) else layer for layer in chosen]
    if len(chosen) == 1 and CATALOGUE[term['type']].layers == 1 and draw(BOOL):
        return chosen[0]
    return draw(st.sampled_from([list, tuple]))(chosen) or None


@st.composite
def valid_terms(draw: st.DrawFn, net: Network, **fixed: Any) -> dict[str, Any]:
    """A valid term; keywords fix its type and level."""
    types = [type for type, rule in CATALOGUE.items() if fixed.get('on', 'patch') in rule.levels]
    kind = fixed.get('type') or draw(st.sampled_from(types if 'on' in fixed else list(CATALOGUE)))
    rule = CATALOGUE[kind]
    term = dict(type=draw(st.sampled_from(['', 'mmdiverse.'])) + kind,
                on=fixed.get('on') or draw(st.sampled_from(rule.levels)),
                weight=draw(st.floats(1e-6, 10) | st.integers(1, 2)),
                **maybe(draw, reduction=st.sampled_from(['mean', 'sum'])),
                **maybe(draw, **dict(rule.options)))
    if term['on'] == 'attention':
        term.update(maybe(draw, heads=st.sampled_from(['maps', 'values', 'outputs'])))
    if term['on'] == 'weight':
        term.update(maybe(draw, vectors=st.sampled_from(['rows', 'columns']), per_head=BOOL))
        names = MATRICES[:4] if term.get('per_head') else MATRICES
        term.update(maybe(draw, matrices=st.lists(
            st.sampled_from(names), min_size=1, unique=True)))
    if draw(st.sampled_from([False, False, True])):
        single = schedulers()
        term['schedule'] = draw(single | st.lists(single, min_size=1, max_size=3))
    layers = draw(layers_of(net, dict(term, type=kind)))
    if layers is None:  # nothing fits this network: what fits every one of this level
        return dict(type='CosineLoss', on=term['on'], weight=term['weight'], diagonal=True)
    return dict(term, layers=layers)


class Plan(NamedTuple):
    """One example."""

    net: Network
    terms: list[dict[str, Any]]
    size: int = 2
    bfloat16: bool = False


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    net = draw(networks())
    terms = draw(st.lists(valid_terms(net), min_size=1, max_size=4))
    for index, term in enumerate(terms):
        others = [(other['on'], other['type']) for other in terms[:index] if 'name' not in other]
        if (term['on'], term['type']) in others or draw(BOOL):
            term['name'] = f'term{index}'
    if len({(term['on'], term['type'].split('.')[-1]) for term in terms}) < len(terms):
        terms = [dict(term, name=f'term{index}') for index, term in enumerate(terms)]
    if draw(st.sampled_from([0] * 9 + [1])):
        terms[0]['weight'] = 0
    return Plan(net, terms, draw(st.integers(1, 3)), draw(BOOL))


# Training


def standin(model: nn.Module) -> SimpleNamespace:
    """What the hook asks of a Runner, without what makes one slow."""
    return SimpleNamespace(cfg={}, model=model, train_dataloader=[None] * EPOCH_LENGTH, seed=3,
                           iter=0, epoch=0, max_epochs=EPOCHS,
                           max_iters=EPOCHS * EPOCH_LENGTH, train_loop=None,
                           logger=logging.getLogger('silent'),
                           message_hub=SimpleNamespace(log_scalars={}))


def has_hooks(model: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
               or module._backward_pre_hooks for module in model.modules())


def backward(plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    """Forward and backward pass as MMEngine does them."""
    context = torch.autocast('cpu', torch.bfloat16) if plan.bfloat16 else nullcontext()
    with context:
        losses = model(**plan.net.batch(plan.size), mode='loss')
        total, _ = model.parse_losses(losses)
    total.backward()
    return losses


def train(plan: Plan, steps: int = 1) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """Train some steps, and give the model and its losses after every one."""
    model = plan.net.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    runner, hook = standin(model), DiversityHook(plan.terms)
    hook.before_train(runner)
    for step in range(steps):
        hook.before_train_iter(runner, step)
        optimizer.zero_grad()
        losses = backward(plan, model)
        optimizer.step()
        hook.after_train_iter(runner, step)
        runner.iter += 1
        if runner.iter % EPOCH_LENGTH == 0:
            hook.after_train_epoch(runner)
            runner.epoch += 1
        yield model, losses
    hook.after_train(runner)


def finite(model: nn.Module) -> bool:
    return all(p.isfinite().all() and (p.grad is None or p.grad.isfinite().all())
               for p in model.parameters())


def test_every_registered_loss_has_rules() -> None:
    LOSSES.import_from_location()
    assert {*CATALOGUE} == {*LOSSES.module_dict}


@examples(120)
@given(plans())
def test_valid_settings_train(plan: Plan) -> None:
    for model, losses in train(plan):
        assert all(value.isfinite().all() for value in losses.values())
        assert finite(model)
        names = {key for key in losses if 'loss' in key}
        assert len(names) - 1 <= sum(term['weight'] > 0 for term in plan.terms)


@examples(30)
@given(plans())
def test_valid_settings_leave_no_hook_behind(plan: Plan) -> None:
    for model, _ in train(plan):
        assert has_hooks(model) == any(term['weight'] > 0 for term in plan.terms)
    assert not has_hooks(model)


@examples(30)
@given(plans())
def test_valid_schedules_last_a_whole_run(plan: Plan) -> None:
    plan = plan._replace(bfloat16=False)
    for model, losses in train(plan, EPOCHS * EPOCH_LENGTH):
        assert all(value.isfinite().all() for value in losses.values())
        assert finite(model)


@examples(6)
@given(plan=plans())
def test_valid_settings_train_in_a_runner(plan: Plan, tmp_path_factory: pytest.TempPathFactory
                                          ) -> None:
    folder = tmp_path_factory.mktemp('run')
    batch = plan.net.batch(plan.size)
    loader = DataLoader([None] * EPOCH_LENGTH, batch_size=1, collate_fn=lambda _: dict(batch))
    model = plan.net.build()
    before = [p.detach().clone() for p in model.parameters()]
    runner = Runner(model, str(folder), train_dataloader=loader, default_scope='mmpretrain',
                    experiment_name=folder.name, log_level='ERROR',
                    train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
                    optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
                    custom_hooks=[dict(type='mmdiverse.DiversityHook', terms=plan.terms)])
    runner.train()
    assert finite(model) and not has_hooks(model)
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before))


@pytest.mark.parametrize('form', ['coherence', 'diversity'])
@pytest.mark.parametrize('weight', [1., 4., 2.**17])  # as loss scaling multiplies it
def test_head_that_starts_at_zero_gives_finite_gradients(weight: float, form: str) -> None:
    net = Network('vit', (Block(8, 2, 16, 9), ) * 2)
    term = dict(type='GradientDiversityLoss', on='patch', layers=0, weight=weight, form=form)
    model, _ = set_up(Plan(net, [term]))
    nn.init.zeros_(model.head.layers.head.weight)
    backward(Plan(net, [term]), model)
    assert finite(model)


def test_step_whose_drop_path_cuts_patches_off_is_no_error() -> None:
    net = Network('vit', (Block(8, 2, 16, 9), ) * 2)
    plan = Plan(net, [dict(type='GradientDiversityLoss', on='patch', layers=0, weight=1.)], size=1)
    model, _ = set_up(plan)
    for part in model.backbone.layers[-1].modules():
        if isinstance(part, DropPath):
            part.drop_prob = 1 - 1e-9
    backward(plan, model)
    assert finite(model)


# Invalid settings

NO_NUMBERS = ['0.5', None, True, float('nan'), float('inf'), float('-inf'), -1, -1e-9, [0.5],
              {}, 1j]
NO_BOOLS = ['yes', 1, 0, None, [], 1.5]
NO_CHOICES = ['other', '', None, 3, True, ['mean'], {}, b'rows']
NO_STEPS = [0, -1, 1.5, '2', None, float('nan'), float('inf'), True, [1]]
NO_POSITIVES = [*NO_NUMBERS, 0, 0.]
BAD_OPTIONS: dict[str, dict[str, list]] = {
    'ConditionalOrthogonalityLoss': dict(method=NO_CHOICES, steps=NO_STEPS, normalize=NO_BOOLS,
                                         start=NO_CHOICES, eps=NO_NUMBERS),
    'ContrastiveLoss': dict(stop_gradient=NO_BOOLS, normalize=NO_BOOLS),
    'CosineLoss': dict(form=NO_CHOICES, diagonal=NO_BOOLS),
    'CrossCosineLoss': dict(form=NO_CHOICES),
    'DisagreementLoss': dict(normalize=NO_BOOLS),
    'GradientDiversityLoss': dict(form=NO_CHOICES),
    'GramDeterminantLoss': dict(bandwidth=NO_POSITIVES, jitter=NO_POSITIVES, official=NO_BOOLS),
    'HypersphericalEnergyLoss': dict(power=NO_NUMBERS, half_space=NO_BOOLS, eps=NO_POSITIVES),
    'HypersphericalSeparationLoss': dict(temperature=NO_NUMBERS, official=NO_BOOLS),
    'RankCollapseLoss': {},
    'SRIPLoss': dict(method=[*NO_CHOICES, 'official'], steps=NO_STEPS, normalize=NO_BOOLS),
    'SoftOrthogonalityLoss': dict(normalize=NO_BOOLS),
}
#: What is wrong whatever else the term says, by the key that the message has to name.
BAD_KEYS: dict[str, list] = {
    'weight': NO_NUMBERS,
    'type': ['NoSuchLoss', '', '.', 'a.b', 'mmdiverse.', 'mmdiverse.CosineLoss.x', None, 3, True,
             ['CosineLoss'], {}, dict, 'DiversityLoss', 'cosineloss', 'mmpretrain.CosineLoss'],
    'on': ['tokens', 'Patch', *NO_CHOICES],
    'reduction': ['max', *NO_CHOICES],
    'name': ['loss', 'my_loss', 'lossless', 3, True, ['x'], b'x', {}, 1.5],
    'schedule': [
        3, 'LinearParamScheduler', True, [], {}, (), [3], [None], [[]], [{}], 1.5, {1, 2},
        dict(end=5), dict(type=None), dict(type='NoSuch'), dict(type=''), dict(type='LinearLR'),
        dict(type='OneCycleParamScheduler', eta_max=1.), dict(type=['LinearParamScheduler']),
        dict(type='ReduceOnPlateauParamScheduler'), dict(type='CosineLoss'),
        *(dict(type='LinearParamScheduler', **options) for options in (
            dict(begin=3, end=3), dict(begin=5, end=2), dict(start_factor='x'), dict(factor=1.),
            dict(start_factor=float('nan')), dict(start_factor=0), dict(start_factor=-1.),
            dict(end_factor=2.), dict(param_name='lr'), dict(by_epoch='no'), dict(end=None),
            dict(end='5'), dict(last_step=3), dict(optimizer=None),
            dict(convert_to_iter_based=1), dict(by_epoch=False, convert_to_iter_based=True))),
        dict(type='StepParamScheduler', step_size=0, gamma=0.5),
        dict(type='StepParamScheduler', gamma=0.5), dict(type='MultiStepParamScheduler'),
        dict(type='MultiStepParamScheduler', milestones=3),
        dict(type='MultiStepParamScheduler', milestones=['3']),
        *(dict(type='ConstantParamScheduler', factor=factor) for factor in (0, 2., -1.)),
        dict(type='CosineAnnealingParamScheduler', eta_min=1., eta_min_ratio=0.1),
        dict(type='CosineAnnealingParamScheduler', eta_min='0')],
}
BAD_AT_LEVEL: dict[str, dict[str, list]] = {
    'attention': dict(heads=['queries', 'Maps', '', 3, True, ['maps'], {}], matrices=[['q']],
                      vectors=['rows'], per_head=[True, False]),
    'weight': dict(heads=['maps', 'values'], vectors=['row', '', 3, True, ['rows'], {}],
                   per_head=['yes', 1, 0, [], 1.5],
                   matrices=['q', '', [], (), {}, {'q'}, 3, True, b'q', ['x'], ['Q'], [''],
                             ['q', 'q'], ['proj', 'proj'], ['fc1', 'q', 'fc1'], [None], [1],
                             [['q']], ['q', 'x'], [{}], ['qkv']]),
    'patch': dict(heads=['maps', 'outputs'], matrices=[['q']], vectors=['columns'],
                  per_head=[True, False]),
}


def bad_layers(net: Network, term: dict[str, Any]) -> list:
    """Wrong values of `layers`."""
    depth = net.depth
    values = [depth, -depth - 1, [depth], [0, depth], [0, 0], [0, -depth], [-1, depth - 1], [], (),
              0., 1.5, [0.], float('nan'), '0', 'last', '', 'All', [None], [0, None], [[0]],
              [0, [0]], {0}, {}, {0: 1}, True, False, [True], ['all'], [0, 'all'], ['0'], [{}],
              10**30, b'all', 1j, ['embed', 'embed'], {'embed'}, range(0)]
    if term['on'] != 'patch':
        values += ['embed', ['embed'], [0, 'embed'], ('embed', -1)]
    if CATALOGUE[term['type'].split('.')[-1]].layers == 2:
        values += [0, -1, 'all', 'embed', [0], (-1, ), [0, 1, 2, 3], ['embed']]
    return values


class Fault(NamedTuple):
    """A plan with one thing wrong, and the key that its error has to name."""

    plan: Plan
    key: str
    value: Any


@st.composite
def faults(draw: st.DrawFn, key: str) -> Fault:
    """Some plan whose one term is wrong at a key."""
    net = draw(networks())
    on = draw(st.sampled_from(['patch', 'attention', 'weight']))
    term = draw(valid_terms(net, on=on))
    if key in BAD_KEYS:
        value = draw(st.sampled_from(BAD_KEYS[key]))
    elif key == 'layers':
        value = draw(st.sampled_from(bad_layers(net, term)))
    elif key == 'options':
        kind = draw(st.sampled_from([kind for kind, bad in BAD_OPTIONS.items() if bad]))
        term = dict(type=kind, on=draw(st.sampled_from(CATALOGUE[kind].levels)), weight=1.,
                    layers=term.get('layers', 0) if CATALOGUE[kind].layers == 1 else [0, -1])
        key = draw(st.sampled_from(sorted(BAD_OPTIONS[kind])))
        value = draw(st.sampled_from(BAD_OPTIONS[kind][key]))
    else:
        key = draw(st.sampled_from(sorted(BAD_AT_LEVEL[on])))
        value = draw(st.sampled_from(BAD_AT_LEVEL[on][key]))
    others = draw(st.lists(st.just(dict(type='CosineLoss', on='weight', weight=1.)), max_size=1))
    good = [dict(other, name='good') for other in others]
    return Fault(Plan(net, [*good, {**term, key: value}]), key, value)


@contextmanager
def explained(key: str) -> Iterator[None]:
    """An error of ours, raised by our own code, that names a key."""
    with pytest.raises(OURS) as caught:
        yield
    where = Path(caught.traceback[-1].path)
    assert PACKAGE in where.parents, f'raised in {where}: {caught.value!r}'
    message = str(caught.value)
    assert f'`{key}' in message or f"'{key}'" in message, f'no `{key}` in {message!r}'


def set_up(plan: Plan) -> tuple[nn.Module, DiversityHook]:
    """Build the hook and attach it, without a step."""
    hook, model = DiversityHook(plan.terms), plan.net.build()
    hook.before_train(standin(model))
    return model, hook


@pytest.mark.parametrize('key', [*BAD_KEYS, 'layers', 'options', 'level'])
def test_invalid_values_are_explained_before_the_first_step(key: str) -> None:
    @examples(40)
    @given(faults(key))
    def check(fault: Fault) -> None:
        with explained(fault.key):
            set_up(fault.plan)
    check()


@examples(20)
@given(faults('layers'))
def test_what_cannot_be_attached_leaves_no_hook_behind(fault: Fault) -> None:
    model = fault.plan.net.build()
    with pytest.raises(OURS):
        DiversityHook(fault.plan.terms).attach(model)
    assert not has_hooks(model)


@pytest.mark.parametrize('terms', [None, 3, True, 1.5, 'CosineLoss', b'x', {}, {'type': 'x'},
                                   dict(type='CosineLoss', on='patch', weight=1.), {3}, [None],
                                   [3], ['CosineLoss'], [[]], [('type', 'CosineLoss')], [True]],
                         ids=repr)
def test_terms_that_are_no_list_of_dicts_are_refused(terms: Any) -> None:
    with explained('terms'):
        DiversityHook(terms)


@pytest.mark.parametrize('key', ['type', 'on', 'weight'])
def test_missing_key_is_named(key: str) -> None:
    term = dict(type='CosineLoss', on='patch', weight=1.)
    del term[key]
    with explained(key):
        DiversityHook([term])


@pytest.mark.parametrize('key', ['wieght', 'layer', 'temperature', 'self', ' weight', ''])
@pytest.mark.parametrize('type', ['CosineLoss', 'RankCollapseLoss'])
def test_unknown_key_is_named(type: str, key: str) -> None:
    with explained(key):
        DiversityHook([{'type': type, 'on': 'patch', 'weight': 1., key: 1}])


@examples(20)
@given(plans(), st.data())
def test_shared_names_are_refused(plan: Plan, data: st.DataObject) -> None:
    term = dict(data.draw(st.sampled_from(plan.terms)), name='same')
    with explained('name'):
        DiversityHook([term, *({**other, 'name': f'x{index}'}
                               for index, other in enumerate(plan.terms)), term])


def test_level_that_a_loss_does_not_know_is_refused() -> None:
    for kind, rule in CATALOGUE.items():
        for on in {'patch', 'attention', 'weight'} - {*rule.levels}:
            with explained('on'):
                DiversityHook([dict(type=kind, on=on, weight=1., layers=[0, 1])])


@examples(20)
@given(networks(), st.integers(EPOCHS, 9), st.sampled_from([True, False]))
def test_schedule_that_starts_after_the_run_is_refused_before_it(net: Network, begin: int,
                                                                 by_epoch: bool) -> None:
    begin *= 1 if by_epoch else EPOCH_LENGTH
    schedule = dict(type='LinearParamScheduler', begin=begin, by_epoch=by_epoch)
    with explained('schedule'):
        set_up(Plan(net, [dict(type='CosineLoss', on='weight', weight=1., schedule=schedule)]))


# What only the first step can tell, for it depends on the data or on what the model does with them


def two_types(layers: int) -> st.SearchStrategy[str]:
    return st.sampled_from([kind for kind, rule in CATALOGUE.items()
                            if rule.layers == layers and rule.vectors == 2
                            and 'patch' in rule.levels and kind != 'GradientDiversityLoss'])


@st.composite
def one_patch(draw: st.DrawFn) -> Fault:
    net = draw(networks(('vit', 'distilled', 'timm'), tokens=1))
    term = dict(type=draw(two_types(1)), on='patch', weight=1.)
    return Fault(Plan(net, [term]), 'layers', 1)


@st.composite
def one_head(draw: st.DrawFn) -> Fault:
    net = draw(networks(('vit', 'distilled', 'timm', 'swin'), heads=1))
    term = dict(type=draw(two_types(1)), on='attention', weight=1., layers=0,
                heads=draw(st.sampled_from(['maps', 'values', 'outputs'])))
    return Fault(Plan(net, [term]), 'layers', 1)


@st.composite
def one_row_per_head(draw: st.DrawFn) -> Fault:
    net = draw(networks(heads=4, width=4))
    term = dict(type='CosineLoss', on='weight', weight=1., per_head=True)
    return Fault(Plan(net, [term]), 'layers', 1)


@st.composite
def two_stages(draw: st.DrawFn) -> Fault:
    net = draw(networks(('swin', ), heads=2).filter(lambda net: net.blocks[-1].stage == 1))
    kind = draw(st.sampled_from(['ContrastiveLoss', 'CrossCosineLoss']))
    term = dict(type=kind, on=draw(st.sampled_from(CATALOGUE[kind].levels)), weight=1.,
                layers=draw(st.sampled_from([[0, -1], [-1, 0]])))
    return Fault(Plan(net, [term]), 'layers', 1)


@st.composite
def no_gradient_of_patches(draw: st.DrawFn) -> Fault:
    # A norm of one channel has no gradient at all.
    net = draw(networks(('vit', 'distilled', 'timm'), heads=2, width=8))
    term = dict(type='GradientDiversityLoss', on='patch', weight=1.,
                layers=draw(st.sampled_from([-1, net.depth - 1, ['embed', -1]])))
    return Fault(Plan(net, [term]), 'layers', 1)


@st.composite
def name_that_the_model_logs(draw: st.DrawFn) -> Fault:
    term = dict(type='CosineLoss', on='weight', weight=1., diagonal=True, name='cls')
    return Fault(Plan(draw(networks()), [term]), 'name', 'cls')



FIRST_STEP = [one_patch, one_head, one_row_per_head, two_stages, no_gradient_of_patches,
              name_that_the_model_logs]


@pytest.mark.parametrize('kind', FIRST_STEP, ids=lambda kind: kind.__name__)
def test_what_only_the_first_step_can_tell_is_explained_there(kind: Callable) -> None:
    @examples(8)
    @given(kind())
    def check(fault: Fault) -> None:
        model, _ = set_up(fault.plan)
        with explained(fault.key):
            backward(fault.plan, model)
    check()


@examples(8)
@given(networks(), st.sampled_from(['patch', 'attention', 'weight']))
def test_frozen_backbone_is_explained_in_the_first_step(net: Network, on: str) -> None:
    plan = Plan(net, [dict(type='CosineLoss', on=on, weight=1., layers=0, diagonal=True)])
    model, _ = set_up(plan)
    model.backbone.requires_grad_(False)
    with explained('weight'):
        backward(plan, model)


@examples(8)
@given(networks())
def test_schedule_that_goes_below_zero_is_explained_when_it_does(net: Network) -> None:
    schedule = dict(type='ExponentialParamScheduler', gamma=-1., by_epoch=False)
    plan = Plan(net, [dict(type='CosineLoss', on='weight', weight=1., diagonal=True,
                           schedule=schedule)])
    with explained('schedule'):
        list(train(plan))
