"""The meter of redundancy on backbones of every family, against what hooks see by hand."""
import copy
import gc
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models.backbones import ResNet, TIMMBackbone, VisionTransformer
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmdiverse.evaluation import redundancy
from mmdiverse.evaluation.redundancy import (
    RedundancyMeter,
    RunningMean,
    find_grid,
    find_key_grid,
    measure_redundancy,
    name_summaries,
    quarter_energy,
    split_batch,
    summarize,
)
from mmdiverse.measures import MEASURES
from mmdiverse.taps import build_tap
from mmdiverse.taps.base import Weights
from tests import reference
from tests.measures.cases import CASES, assert_agrees
from tests.runs import DIGITS
from tests.taps.families import FAMILIES, Family, masked
from tests.taps.families.swin import swin
from tests.taps.families.timm_volo import volo
from tests.taps.families.vit import vit

BY_NAME = {family.name: family for family in FAMILIES}
VIT, SWIN = BY_NAME['vit'], BY_NAME['swin']
# Those whose queries, keys and outputs of heads hooks see, as the reference here needs, and which
# draw no masks.
HOOKED = [family for family in FAMILIES
          if family.tap in (VIT.tap, SWIN.tap) and family.name != 'mae'] + [BY_NAME['timm']]
OF_IMAGES = [name for name, measure in MEASURES.items() if measure.captured != 'weight']
OF_WEIGHTS = [name for name in MEASURES if name not in OF_IMAGES]
SUBSAMPLED = [name for name in OF_IMAGES if MEASURES[name].subsampled]
ALL_MATRICES = ('q', 'k', 'v', 'proj', 'fc1', 'fc2')

# Their masks are of three images, or drawn anew for each batch.
MASKED = [family for family in FAMILIES if family.masks or family in masked.FAMILIES]
every_family = pytest.mark.parametrize('family', HOOKED, ids=str)
all_families = pytest.mark.parametrize('family', FAMILIES, ids=str)
two_families = pytest.mark.parametrize('family', [VIT, SWIN], ids=str)


def build(family: Family, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A backbone whose heads do not attend to all tokens alike."""
    backbone = family.build()
    with torch.no_grad():
        for block in family.find_blocks(backbone):
            family.find_attention(block).qkv.weight *= 6
    return backbone.to(dtype)


def images(family: Family, count: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    side = family.image_size
    return torch.randn(count, 3, side, side, generator=generator).to(dtype)


def see(meter: RedundancyMeter, batches: Sequence[Tensor], **options: Sequence) -> None:
    with torch.no_grad(), meter.measuring(**options):
        for batch in batches:
            meter.tap.backbone(batch)


def measure(backbone: nn.Module, batches: Sequence[Tensor], measures: Sequence[str] | str = 'all',
            **options: object) -> dict:
    meter = RedundancyMeter(backbone, measures, **options)
    try:
        see(meter, batches)
        return meter.compute()
    finally:
        meter.detach()


def tensors_of(values: object) -> list[Tensor]:
    """All tensors of the values of a measure, or of all."""
    if isinstance(values, Tensor):
        return [values]
    parts = values.values() if isinstance(values, dict) else values
    return [tensor for part in parts for tensor in tensors_of(part)]


def assert_same(values: dict, expected: dict, **tolerances: float) -> None:
    assert list(values) == list(expected)
    for name in values:
        for pair in zip(tensors_of(values[name]), tensors_of(expected[name]), strict=True):
            torch.testing.assert_close(*pair, equal_nan=True, **tolerances,
                                       msg=lambda text, name=name: f'{name}: {text}')


def assert_equal(values: dict, expected: dict) -> None:
    assert_same(values, expected, rtol=0, atol=0)


def hooks_of(module: nn.Module) -> int:
    return sum(len(hooks) for part in module.modules()
               for hooks in (part._forward_hooks, part._forward_pre_hooks,
                             part._forward_hooks_always_called))


# By hand


class ByHand:
    """What hooks of our own see of one image, and the measures of it in plain loops.

    Attributes:
        seen: By name of the part and block, float64.
    """

    def __init__(self, family: Family, backbone: nn.Module) -> None:
        self.family = family
        self.blocks = family.find_blocks(backbone)
        self.heads = [family.find_attention(block).num_heads for block in self.blocks]
        self.seen: dict[tuple[str, int], Tensor] = {}
        self.handles = []
        for layer, block in enumerate(self.blocks):
            attention = family.find_attention(block)
            self._watch_output('tokens', layer, block)
            self._watch_output('qkv', layer, attention.qkv)
            self._watch_input('outputs', layer, attention.proj)
            if family.tap == 'SwinTransformerTap':
                self._watch_output('maps', layer, attention.softmax)
        self._watch_input('tokens', -1, self.blocks[0])

    def _keep(self, name: str, layer: int, tensor: Tensor) -> None:
        self.seen[name, layer] = tensor.detach().double()

    def _watch_output(self, name: str, layer: int, module: nn.Module) -> None:
        self.handles.append(module.register_forward_hook(
            lambda module, args, output: self._keep(name, layer, output)))

    def _watch_input(self, name: str, layer: int, module: nn.Module) -> None:
        self.handles.append(module.register_forward_pre_hook(
            lambda module, args: self._keep(name, layer, args[0])))

    def tokens(self, layer: int) -> Tensor:
        """Patch tokens ``(M, D)`` of the one image; of layer -1 those into the first block."""
        tokens, = self.seen['tokens', layer]
        prefix = len(self.family.prefix) and self.seen['tokens', -1].size(1) \
            - self.family.num_patches
        return tokens[prefix:]

    def outputs(self, layer: int) -> Tensor:
        """Of each window ``(H, N, d)``, less the mean, with which the loops would lose digits."""
        outputs = self.seen['outputs', layer]
        outputs = outputs - outputs.mean(1, keepdim=True)
        return outputs.unflatten(2, (self.heads[layer], -1)).transpose(1, 2)

    def maps(self, layer: int) -> Tensor:
        """Of each window ``(H, N, N)``."""
        if ('maps', layer) in self.seen:
            return self.seen['maps', layer]
        (q, k, _), = self.seen['qkv', layer].unflatten(2, (3, self.heads[layer], -1)).permute(
            0, 2, 3, 1, 4)
        return torch.stack([reference.attention_maps(*pair, q.size(-1)**-0.5)
                            for pair in zip(q, k)])[None]

    def items(self, name: str, layer: int) -> list[tuple]:
        """What the reference of a measure takes, for each window."""
        captured = MEASURES[name].captured
        if captured == 'patch':
            return [(self.tokens(layer), )]
        if captured == 'outputs':
            return [(window, ) for window in self.outputs(layer)]
        prefix = len(self.family.prefix)
        windows = self.maps(layer)
        side = math.isqrt(windows.size(-1) - prefix)
        return [(window, prefix, (side, side)) for window in windows]

    def values(self, name: str) -> list[Tensor]:
        """The measure of this image, for every layer or once for all pairs."""
        if MEASURES[name].axis == 'layer pair':
            return [self.pairs(name)]
        return [torch.stack([CASES[name].reference(*item) for item in self.items(name, layer)]
                            ).mean(0) for layer in range(len(self.blocks))]

    def pairs(self, name: str) -> Tensor:
        """Of all pairs of layers; NaN between those of different shapes."""
        layers = [self.tokens(layer) for layer in range(len(self.blocks))]
        result = torch.full((len(layers), len(layers)), torch.nan, dtype=torch.float64)
        for row, first in enumerate(layers):
            for column, second in enumerate(layers):
                if first.shape == second.shape:
                    result[row, column] = CASES[name].reference([first, second])[0, 1]
        return result


def by_hand(family: Family, backbone: nn.Module, pixels: Tensor, names: Sequence[str]
            ) -> dict[str, list[Tensor]]:
    """Mean over the images, one after the other, then what finishes a measure."""
    hand = ByHand(family, backbone)
    values: dict[str, list[list[Tensor]]] = {name: [] for name in names}
    with torch.no_grad():
        for image in pixels:
            backbone(image[None])
            for name in names:
                values[name].append(hand.values(name))
    for handle in hand.handles:
        handle.remove()
    means = {name: [torch.stack(layer).mean(0) for layer in zip(*rows)]
             for name, rows in values.items()}
    return {name: [reference.alignment(mean) for mean in layers] if MEASURES[name].finish
            else layers for name, layers in means.items()}


@pytest.mark.parametrize('name', OF_IMAGES)
@pytest.mark.parametrize('family', [VIT, BY_NAME['deit-distilled'], BY_NAME['timm'], SWIN],
                         ids=str)
def test_measures_of_images_agree_with_hooked_tensors(family: Family, name: str) -> None:
    backbone, pixels = build(family), images(family, 2)
    expected = by_hand(family, backbone, pixels, [name])[name]
    for value, wanted in zip(tensors_of(measure(backbone, [pixels], [name])), expected,
                             strict=True):
        assert torch.equal(value.isnan(), wanted.isnan())
        assert_agrees(value.nan_to_num(), wanted.nan_to_num())


@every_family
def test_measures_of_tokens_leave_prefix_tokens_out(family: Family) -> None:
    backbone, pixels = build(family), images(family, 1)
    name = 'rank_collapse_residual'
    expected = by_hand(family, backbone, pixels, [name])[name]
    # A register may hold several tokens, which our hooks count from the patches.
    for value, wanted in zip(measure(backbone, [pixels], [name])[name], expected, strict=True):
        assert_agrees(value, wanted)


@pytest.mark.parametrize('name', OF_WEIGHTS)
@pytest.mark.parametrize('matrix', ALL_MATRICES)
@two_families
def test_measures_of_weights_agree_with_the_matrix(family: Family, matrix: str, name: str
                                                   ) -> None:
    backbone = build(family)
    values = measure(backbone, [], [name], matrices=[matrix])[name][matrix]
    for block, value in zip(family.find_blocks(backbone), values, strict=True):
        rows = family.find_matrices(block)[matrix].detach()
        assert_agrees(value, CASES[name].reference(rows))


@every_family
def test_every_matrix_is_the_one_of_its_name(family: Family) -> None:
    backbone = build(family)
    values = measure(backbone, [], ['stable_rank'], matrices=ALL_MATRICES)['stable_rank']
    assert list(values) == list(ALL_MATRICES)
    for layer, block in enumerate(family.find_blocks(backbone)):
        for matrix, rows in family.find_matrices(block).items():
            assert_agrees(values[matrix][layer], reference.stable_rank(rows.detach()))


# Shapes and range


@every_family
def test_values_have_the_shape_that_the_axis_says(family: Family) -> None:
    backbone = build(family, torch.float32)
    blocks = family.find_blocks(backbone)
    values = measure(backbone, [images(family, 2, torch.float32)])
    assert list(values) == list(MEASURES)
    for name, value in values.items():
        heads = [family.find_attention(block).num_heads for block in blocks]
        axis = MEASURES[name].axis
        if axis == 'layer pair':
            assert value.shape == (len(blocks), len(blocks))
        elif axis in ('matrix', 'component'):
            assert list(value) == ['q', 'k', 'v']
            for matrix, layers in value.items():
                sizes = [family.find_matrices(block)[matrix].shape for block in blocks]
                assert [layer.shape for layer in layers] == [
                    (min(size), ) if axis == 'component' else () for size in sizes]
        else:
            shapes = {'layer': lambda num: (), 'head': lambda num: (num, ),
                      'head pair': lambda num: (num, num)}
            assert [layer.shape for layer in value] == [shapes[axis](num) for num in heads]


@every_family
def test_values_are_finite_but_for_pairs_of_layers_of_different_shapes(family: Family) -> None:
    backbone = build(family, torch.float32)
    values = measure(backbone, [images(family, 2, torch.float32)])
    # Two stages of a Swin of two blocks each.
    stage = torch.arange(4) // 2
    between = stage[:, None] != stage if family.tap == SWIN.tap else torch.zeros(())
    for name, value in values.items():
        if MEASURES[name].axis == 'layer pair':
            assert torch.equal(value.isnan(), between.bool().expand(value.shape))
            assert not value.isinf().any()
        elif name == 'head_output_cka':
            # NaN for a head that gives all tokens the same: its attention is that sharp here.
            assert not any(tensor.isinf().any() or tensor.isnan().all() for tensor in value)
        else:
            assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(value))


def test_values_are_in_float64_on_the_cpu() -> None:
    values = measure(build(VIT, torch.float32), [images(VIT, 2, torch.float32)])
    assert {(tensor.dtype, tensor.device.type) for tensor in tensors_of(values)} == {
        (torch.float64, 'cpu')}


# Batches


@every_family
@pytest.mark.parametrize('sizes', [[4, 1, 1], [1] * 6], ids=str)
def test_batch_size_does_not_matter(family: Family, sizes: list[int]) -> None:
    backbone, pixels = build(family), images(family)
    assert_same(measure(backbone, pixels.split(sizes)), measure(backbone, [pixels]),
                rtol=1e-6, atol=1e-12)


@every_family
def test_batch_size_does_not_matter_in_float32(family: Family) -> None:
    # But for the rounding of the model.
    backbone, pixels = build(family, torch.float32), images(family, dtype=torch.float32)
    assert_same(measure(backbone, pixels.split([4, 1, 1]), OF_IMAGES),
                measure(backbone, [pixels], OF_IMAGES), rtol=1e-6, atol=5e-6)


@two_families
@pytest.mark.parametrize('budget', [1, 700, 2**30])
def test_the_budget_does_not_matter(family: Family, budget: int, monkeypatch) -> None:
    backbone, pixels = build(family), images(family)
    expected = measure(backbone, [pixels])
    monkeypatch.setattr(redundancy, 'CPU_BUDGET', budget)
    assert_same(measure(backbone, [pixels]), expected, rtol=1e-9, atol=1e-12)


def test_every_image_counts_alike() -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    name = 'token_cosine_absolute'
    single = [measure(backbone, [image[None]], [name])[name][0] for image in pixels]
    whole = measure(backbone, pixels.split([2, 1]), [name])[name][0]
    torch.testing.assert_close(whole, torch.stack(single).mean())


@two_families
def test_the_last_image_can_be_taken_back(family: Family) -> None:
    backbone, pixels = build(family), images(family, 5)
    meter = RedundancyMeter(backbone)
    see(meter, pixels.split([3, 2]))
    meter.drop_last()
    assert meter.images == 4
    assert_same(meter.compute(), measure(backbone, [pixels[:4]]), rtol=1e-9, atol=1e-12)


def test_an_image_counts_with_the_mean_of_its_views() -> None:
    family = BY_NAME['vit']
    backbone, views = build(family), images(family).chunk(2)
    expected = measure(backbone, views)
    meter = RedundancyMeter(backbone, 'all')
    with meter.measuring(views=2):
        for view in views:
            backbone(view)
    assert meter.images == 3
    assert_same(meter.compute(), expected)
    # And all of its views are taken back.
    meter.drop_last()
    assert meter.images == 2
    assert_same(meter.compute(), measure(backbone, [view[:2] for view in views]))


def test_images_may_follow_one_that_was_taken_back() -> None:
    backbone, pixels = build(VIT), images(VIT, 4)
    meter = RedundancyMeter(backbone)
    see(meter, [pixels[:2]])
    meter.drop_last()
    see(meter, [pixels[2:]])
    assert_same(meter.compute(), measure(backbone, [pixels[[0, 2, 3]]]), rtol=1e-9, atol=1e-12)


def compute_together(meters: Sequence[RedundancyMeter], monkeypatch) -> dict:
    """What the last of several processes computes, each of which has a meter.

    All reduce the same tensors in the same order; here one after the other.
    """
    totals: list[Tensor] = []
    values = {}
    for process, meter in enumerate(meters):
        remaining = iter(totals)
        reduced: list[Tensor] = []

        def add(tensor: Tensor, first=process == 0, remaining=remaining, reduced=reduced) -> None:
            if not first:
                tensor += next(remaining)
            reduced.append(tensor.clone())

        monkeypatch.setattr(redundancy, 'all_reduce', add)
        values, totals = meter.compute(), reduced
        assert next(remaining, None) is None
    return values


@two_families
def test_processes_do_not_matter(family: Family, monkeypatch) -> None:
    backbone, pixels = build(family), images(family, 5)
    expected = measure(backbone, [pixels])
    # As a sampler shares them out; the last image repeats the first.
    meters = [RedundancyMeter(backbone) for _ in range(3)]
    for meter, own in zip(meters, ([0, 3], [1, 4], [2, 0])):
        see(meter, [pixels[own]])
        meter.stop()
    meters[2].drop_last()
    assert_same(compute_together(meters, monkeypatch), expected, rtol=1e-9, atol=1e-12)


def test_a_process_whose_one_image_is_taken_back_counts_nothing(monkeypatch) -> None:
    backbone, pixels = build(VIT), images(VIT, 1)
    expected = measure(backbone, [pixels])
    meters = [RedundancyMeter(backbone) for _ in range(2)]
    for meter in meters:
        see(meter, [pixels])
    meters[1].drop_last()
    assert_same(compute_together(meters, monkeypatch), expected, rtol=1e-9, atol=1e-12)


# Options


@every_family
def test_embed_is_the_input_of_the_first_block(family: Family) -> None:
    backbone, pixels = build(family), images(family, 2)
    name = 'token_cosine_signed'
    expected, hand = [], ByHand(family, backbone)
    for image in pixels:
        backbone(image[None])
        expected.append(CASES[name].reference(hand.tokens(-1)))
    assert_agrees(measure(backbone, [pixels], [name], embed=True)[name][0],
                  torch.stack(expected).mean())


def test_embed_stands_before_the_blocks() -> None:
    meter = RedundancyMeter(build(VIT), embed=True)
    assert meter.layers(MEASURES['effective_rank']) == ['embed', 0, 1, 2]


def test_embed_is_no_layer_of_heads() -> None:
    meter = RedundancyMeter(build(VIT), embed=True)
    assert meter.layers(MEASURES['head_cosine']) == [0, 1, 2]


@two_families
def test_embed_leaves_other_values_as_they_are(family: Family) -> None:
    backbone, pixels = build(family), images(family, 2)
    plain, more = (measure(backbone, [pixels], embed=embed) for embed in (False, True))
    for name, measured in MEASURES.items():
        if measured.axis == 'layer pair':
            more[name] = more[name][1:, 1:]
        elif measured.captured == 'patch':
            more[name] = more[name][1:]
    assert_same(more, plain, rtol=1e-9, atol=1e-12)


def test_matrices_are_those_asked_for() -> None:
    values = measure(build(VIT), [], ['stable_rank'], matrices=['fc1', 'q'])
    assert list(values['stable_rank']) == ['fc1', 'q']


def test_matrices_do_not_depend_on_each_other() -> None:
    backbone = build(VIT)
    together = measure(backbone, [], OF_WEIGHTS, matrices=ALL_MATRICES)
    for matrix in ALL_MATRICES:
        alone = measure(backbone, [], OF_WEIGHTS, matrices=[matrix])
        assert_equal(alone, {name: {matrix: together[name][matrix]} for name in OF_WEIGHTS})


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="`matrices` must be taken from .*'qkv'"):
        RedundancyMeter(build(VIT), matrices=['qkv'])


def test_the_default_matrices_are_those_of_a_term() -> None:
    assert RedundancyMeter(build(VIT)).matrices == Weights().matrices


@two_families
@pytest.mark.parametrize('name', OF_WEIGHTS)
def test_the_share_of_a_head_is_a_matrix_of_its_own(family: Family, name: str) -> None:
    backbone = build(family)
    values = RedundancyMeter(backbone, [name]).measure_weights(('q', 'proj'), per_head=True)[name]
    for layer, block in enumerate(family.find_blocks(backbone)[:2]):
        heads = family.find_attention(block).num_heads
        matrices = {matrix: rows.detach() for matrix, rows in family.find_matrices(block).items()}
        # Rows of the queries, columns of the projection.
        for matrix, dim in (('q', 0), ('proj', 1)):
            expected = [CASES[name].reference(share)
                        for share in matrices[matrix].chunk(heads, dim)]
            assert_agrees(values[matrix][layer], torch.stack(expected))


def test_heads_share_no_matrix_of_the_mlp() -> None:
    meter = RedundancyMeter(build(VIT), OF_WEIGHTS)
    with pytest.raises(ValueError, match='per_head'):
        meter.measure_weights(('fc1', ), per_head=True)


def test_values_come_in_the_order_of_the_names() -> None:
    names = ['stable_rank', 'head_cosine', 'linear_cka']
    assert list(measure(build(VIT), [images(VIT, 2)], names)) == names


@two_families
def test_a_measure_does_not_depend_on_others(family: Family) -> None:
    backbone, pixels = build(family), images(family, 2)
    together = measure(backbone, [pixels])
    for name in MEASURES:
        assert_same(measure(backbone, [pixels], [name]), {name: together[name]}, rtol=1e-9,
                    atol=1e-12)


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ValueError, match='nonsense'):
        RedundancyMeter(build(VIT), ['nonsense'])


def test_a_backbone_that_no_tap_knows_is_refused() -> None:
    with pytest.raises(ValueError, match='no tap knows the backbone ResNet'):
        RedundancyMeter(ResNet(18))


# Subsample

CHOSEN = [True, False, True, False, False]


@two_families
@pytest.mark.parametrize('name', OF_IMAGES)
def test_a_subsample_is_for_dear_measures(family: Family, name: str) -> None:
    backbone, pixels = build(family), images(family, len(CHOSEN))
    meter = RedundancyMeter(backbone, [name])
    see(meter, [pixels], subsample=CHOSEN)
    own = pixels[torch.tensor(CHOSEN)] if name in SUBSAMPLED else pixels
    assert_same(meter.compute(), measure(backbone, [own], [name]), rtol=1e-9, atol=1e-12)


def test_some_measures_are_dear_and_some_are_not() -> None:
    assert 0 < len(SUBSAMPLED) < len(OF_IMAGES)


@two_families
def test_a_batch_may_have_none_of_the_subsample(family: Family) -> None:
    backbone, pixels = build(family), images(family, 4)
    meter = RedundancyMeter(backbone, SUBSAMPLED)
    see(meter, [pixels[:2]], subsample=[True, True])
    see(meter, [pixels[2:]], subsample=[False, False])
    assert_same(meter.compute(), measure(backbone, [pixels[:2]], SUBSAMPLED), rtol=1e-9,
                atol=1e-12)


def test_the_budget_does_not_matter_to_a_subsample(monkeypatch) -> None:
    backbone, pixels = build(SWIN), images(SWIN, len(CHOSEN))
    monkeypatch.setattr(redundancy, 'CPU_BUDGET', 1)
    meter = RedundancyMeter(backbone, SUBSAMPLED)
    see(meter, [pixels], subsample=CHOSEN)
    assert_same(meter.compute(), measure(backbone, [pixels[torch.tensor(CHOSEN)]], SUBSAMPLED),
                rtol=1e-9, atol=1e-12)


def test_a_subsample_ends_with_the_block() -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    meter = RedundancyMeter(backbone, SUBSAMPLED)
    see(meter, [pixels[:1]], subsample=[True])
    see(meter, [pixels[1:]])
    assert_same(meter.compute(), measure(backbone, [pixels], SUBSAMPLED), rtol=1e-9, atol=1e-12)


def test_a_measure_that_saw_no_image_of_the_subsample_is_not_defined() -> None:
    meter = RedundancyMeter(build(VIT), ['effective_rank', 'token_cosine_signed'])
    see(meter, [images(VIT, 2)], subsample=[False, False])
    values = meter.compute()
    assert all(bool(value.isnan()) for value in values['effective_rank'])


def test_an_image_taken_back_takes_none_of_the_subsample_with_it() -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    meter = RedundancyMeter(backbone, SUBSAMPLED)
    see(meter, [pixels], subsample=[True, True, False])
    meter.drop_last()
    assert_same(meter.compute(), measure(backbone, [pixels[:2]], SUBSAMPLED), rtol=1e-9,
                atol=1e-12)


# Nothing stays, nothing changes


@every_family
def test_outputs_stay_the_same_bit_for_bit(family: Family) -> None:
    backbone, pixels = build(family, torch.float32), images(family, 2, torch.float32)
    with torch.no_grad():
        expected = backbone(pixels)
    meter = RedundancyMeter(backbone)
    with torch.no_grad(), meter.measuring():
        outputs = backbone(pixels)
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


@every_family
def test_detach_leaves_no_hooks(family: Family) -> None:
    backbone = build(family)
    before = hooks_of(backbone)
    meter = RedundancyMeter(backbone)
    see(meter, [images(family, 1)])
    assert hooks_of(backbone) > before
    meter.detach()
    assert hooks_of(backbone) == before


def break_block(backbone: nn.Module, family: Family) -> Callable[[], None]:
    """Make the second block fail, until what is returned is called."""
    def fail(module: nn.Module, args: tuple) -> None:
        raise OverflowError('broken')
    return family.find_blocks(backbone)[1].register_forward_pre_hook(fail).remove


@two_families
def test_detach_leaves_no_hooks_after_an_error_in_the_forward_pass(family: Family) -> None:
    backbone = build(family)
    before = hooks_of(backbone)
    meter = RedundancyMeter(backbone)
    repair = break_block(backbone, family)
    with pytest.raises(OverflowError):
        see(meter, [images(family, 1)])
    repair()
    meter.detach()
    assert hooks_of(backbone) == before


@two_families
def test_an_error_in_the_forward_pass_leaves_no_tensors(family: Family) -> None:
    backbone = build(family)
    meter = RedundancyMeter(backbone)
    break_block(backbone, family)
    with pytest.raises(OverflowError):
        see(meter, [images(family, 1)])
    assert not meter.tap._captured and not meter.tap._recording


@two_families
def test_a_batch_that_broke_does_not_count(family: Family) -> None:
    backbone, pixels = build(family), images(family, 3)
    meter = RedundancyMeter(backbone)
    repair = break_block(backbone, family)
    with pytest.raises(OverflowError):
        see(meter, [pixels[:1]])
    repair()
    see(meter, [pixels[1:]])
    assert_same(meter.compute(), measure(backbone, [pixels[1:]]), rtol=1e-9, atol=1e-12)


def test_a_batch_that_cannot_be_measured_does_not_count(monkeypatch) -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    expected = measure(backbone, [pixels[1:]])
    meter = RedundancyMeter(backbone)
    with monkeypatch.context() as broken:
        broken.setattr(redundancy, 'find_key_grid', lambda *sizes: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            see(meter, [pixels[:1]])
    see(meter, [pixels[1:]])
    assert_same(meter.compute(), expected, rtol=1e-9, atol=1e-12)


def test_nothing_is_hooked_for_weights_alone() -> None:
    backbone = build(VIT)
    RedundancyMeter(backbone, OF_WEIGHTS)
    assert hooks_of(backbone) == 0


def live_tensors() -> tuple[int, int]:
    """How many tensors there are, and their bytes."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    return len(found), sum(tensor.nbytes for tensor in found)


@two_families
def test_memory_does_not_grow_with_the_number_of_images(family: Family) -> None:
    backbone, pixels = build(family, torch.float32), images(family, 2, torch.float32)
    meter = RedundancyMeter(backbone)
    see(meter, [pixels] * 3)
    after_three = live_tensors()
    see(meter, [pixels] * 27)
    assert meter.images == 60
    assert live_tensors() == after_three


def test_two_meters_watch_one_backbone() -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    first, second = RedundancyMeter(backbone), RedundancyMeter(backbone)
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(first.measuring())
        stack.enter_context(second.measuring())
        backbone(pixels)
    assert_equal(second.compute(), first.compute())


# When it measures


def test_nothing_measured_is_an_error() -> None:
    meter = RedundancyMeter(build(VIT))
    with pytest.raises(RuntimeError, match='no image was measured.*VisionTransformer'):
        meter.compute()


def test_weights_need_no_image() -> None:
    assert set(RedundancyMeter(build(VIT), OF_WEIGHTS).compute()) == set(OF_WEIGHTS)


def test_a_forward_pass_outside_does_not_count() -> None:
    backbone, pixels = build(VIT), images(VIT, 2)
    meter = RedundancyMeter(backbone)
    backbone(pixels)
    see(meter, [pixels])
    backbone(pixels)
    assert meter.images == 2


def test_an_error_ends_the_measuring() -> None:
    backbone, pixels = build(VIT), images(VIT, 2)
    meter = RedundancyMeter(backbone)
    with pytest.raises(KeyboardInterrupt), meter.measuring():
        raise KeyboardInterrupt
    backbone(pixels)
    assert meter.images == 0


def test_start_and_stop_are_the_ends_of_measuring() -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    meter = RedundancyMeter(backbone)
    meter.start()
    backbone(pixels[:2])
    meter.stop()
    backbone(pixels[2:])
    assert_same(meter.compute(), measure(backbone, [pixels[:2]]), rtol=1e-9, atol=1e-12)


def test_a_reset_forgets_all_images() -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    meter = RedundancyMeter(backbone)
    see(meter, [pixels[:1]])
    meter.reset()
    see(meter, [pixels[1:]])
    assert_same(meter.compute(), measure(backbone, [pixels[1:]]), rtol=1e-9, atol=1e-12)


def test_values_can_be_computed_in_between() -> None:
    backbone, pixels = build(VIT), images(VIT, 3)
    meter = RedundancyMeter(backbone)
    see(meter, [pixels[:1]])
    meter.compute()
    see(meter, [pixels[1:]])
    assert_same(meter.compute(), measure(backbone, [pixels]), rtol=1e-9, atol=1e-12)


def test_values_can_be_computed_twice() -> None:
    meter = RedundancyMeter(build(VIT))
    see(meter, [images(VIT, 3)])
    assert_equal(meter.compute(), meter.compute())


def test_a_forward_pass_with_gradients_is_measured_alike() -> None:
    backbone, pixels = build(VIT), images(VIT, 2)
    meter = RedundancyMeter(backbone)
    with meter.measuring():
        outputs = backbone(pixels)
    outputs[-1].sum().backward()
    assert_same(meter.compute(), measure(backbone, [pixels]), rtol=1e-9, atol=1e-12)


@two_families
def test_measuring_does_not_change_gradients(family: Family) -> None:
    backbone, pixels = build(family), images(family, 2)
    plain = copy.deepcopy(backbone)
    plain(pixels)[-1].square().sum().backward()
    with RedundancyMeter(backbone).measuring():
        backbone(pixels)[-1].square().sum().backward()
    for parameter, other in zip(backbone.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=0)


def test_heads_are_let_go_of_block_by_block() -> None:
    backbone, held = build(VIT), []
    meter = RedundancyMeter(backbone, ['head_cosine', 'head_output_cka'])
    for block in backbone.layers:
        block.register_forward_hook(lambda *args: held.append(dict(meter.tap._captured)))
    with torch.no_grad(), meter.measuring():
        backbone(images(VIT, 2))
    assert held == [{}] * len(backbone.layers)


def test_tokens_are_kept_where_those_of_the_pass_before_were() -> None:
    backbone = build(VIT)
    meter = RedundancyMeter(backbone, ['token_cosine_signed'])
    places = []
    with torch.no_grad(), meter.measuring():
        for count in (3, 3, 2):
            backbone(images(VIT, count))
            places.append({layer: record.vectors().data_ptr()
                           for layer, record in meter._tokens.items()})
    assert places[0] == places[1] and meter._tokens[0].shape[0] == 2
    meter.compute()
    assert not meter._tokens


def test_a_block_that_is_called_twice_counts_once() -> None:
    backbone, pixels = build(VIT), images(VIT, 2)
    expected = measure(backbone, [pixels])
    attention = backbone.layers[1].attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: (forward(torch.randn_like(args[0]), **kwargs),
                                                 forward(*args, **kwargs))[1]
    assert_same(measure(backbone, [pixels]), expected, rtol=1e-9, atol=1e-12)


def test_inference_mode_is_measured_alike() -> None:
    backbone, pixels = build(VIT), images(VIT, 2)
    meter = RedundancyMeter(backbone)
    with torch.inference_mode(), meter.measuring():
        backbone(pixels)
    assert_same(meter.compute(), measure(backbone, [pixels]), rtol=1e-9, atol=1e-12)


# Precision


@two_families
@pytest.mark.parametrize('name', OF_IMAGES)
def test_autocast_does_not_reach_measures(family: Family, name: str) -> None:
    # Of tensors in bfloat16 the measures are those of float64.
    backbone, pixels = build(family, torch.float32), images(family, 2, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        values = tensors_of(measure(backbone, pixels.split(1), [name]))
        expected = by_hand(family, backbone, pixels, [name])[name]
    for value, wanted in zip(values, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=2e-5, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize('name', OF_WEIGHTS)
def test_weights_are_measured_alike_under_autocast(name: str) -> None:
    backbone = build(VIT, torch.float32)
    expected = measure(backbone, [], [name])
    with torch.autocast('cpu', torch.bfloat16):
        assert_equal(measure(backbone, [], [name]), expected)


def test_queries_are_normalised_under_the_autocast_of_the_model() -> None:
    # A layer that casts nothing by itself, as a norm on a GPU: float32 weights, bfloat16 input.
    family = BY_NAME['timm-registers']
    backbone, pixels = build(family, torch.float32), images(family, 2, torch.float32)
    for block in family.find_blocks(backbone):
        block.attn.q_norm = nn.Linear(16, 16)
    meter = RedundancyMeter(backbone, ['head_cosine'])
    with torch.autocast('cpu', torch.bfloat16):
        see(meter, [pixels])
    assert meter.images == 2


@pytest.mark.parametrize('name', OF_IMAGES)
def test_a_model_in_half_precision_is_measured_in_float32(name: str) -> None:
    backbone, pixels = build(VIT, torch.bfloat16), images(VIT, 2, torch.bfloat16)
    expected = by_hand(VIT, backbone, pixels, [name])[name]
    for value, wanted in zip(tensors_of(measure(backbone, pixels.split(1), [name])), expected,
                             strict=True):
        torch.testing.assert_close(value, wanted, rtol=2e-5, atol=2e-5)


# Grids


@pytest.mark.parametrize(('num_patches', 'image_size', 'grid'), [
    (196, (224, 224), (14, 14)), (9, (12, 12), (3, 3)), (1, (16, 16), (1, 1)),
    (10, (8, 20), (2, 5)), (10, (20, 8), (5, 2)), (9, (14, 14), (3, 3)), (16, (1, 1), (4, 4)),
    (49, (1, 1), (7, 7)), (768, (384, 512), (24, 32)), (3, (4, 13), (1, 3)),
])
def test_grid_of_square_patches(num_patches: int, image_size: tuple[int, int],
                                grid: tuple[int, int]) -> None:
    assert find_grid(num_patches, image_size) == grid


@pytest.mark.parametrize(('num_patches', 'image_size'), [(7, (12, 12)), (12, (16, 16)),
                                                         (30, (12, 20))])
def test_no_grid_of_square_patches(num_patches: int, image_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'{num_patches} patches are no grid .*{image_size[0]} x '
                                         f'{image_size[1]} pixels'):
        find_grid(num_patches, image_size)


def oblong(image_size: tuple[int, int], patch_size: int | tuple[int, int] = 4) -> nn.Module:
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
    backbone = VisionTransformer(arch=arch, img_size=image_size, patch_size=patch_size).double()
    backbone.eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(std=0.3)
    return backbone


@pytest.mark.parametrize(('image_size', 'grid'), [((8, 20), (2, 5)), ((20, 8), (5, 2))])
def test_distances_on_an_image_that_is_not_square(image_size: tuple[int, int],
                                                  grid: tuple[int, int]) -> None:
    backbone, name = oblong(image_size), 'mean_attention_distance'
    pixels = torch.randn(1, 3, *image_size, dtype=torch.float64)
    hand = ByHand(VIT, backbone)
    values = measure(backbone, [pixels], [name])[name]
    for layer, value in enumerate(values):
        assert_agrees(value, CASES[name].reference(hand.maps(layer)[0], 1, grid))


# The second has as many patches as a grid of square ones.
@pytest.mark.parametrize(('image_size', 'patch_size'), [((12, 20), (4, 2)), ((12, 48), (2, 8))])
def test_patches_that_are_not_square_have_no_distance(image_size: tuple[int, int],
                                                      patch_size: tuple[int, int]) -> None:
    meter = RedundancyMeter(oblong(image_size, patch_size))
    see(meter, [torch.randn(1, 3, *image_size, dtype=torch.float64)])
    values = meter.compute()
    assert all(bool(value.isnan().all()) for value in values.pop('mean_attention_distance'))
    assert not any(value.isnan().any() for value in tensors_of(values))
    gap, = meter.gaps()
    assert (gap.measures, gap.layers) == (['mean_attention_distance'], [0, 1])
    assert f'stands for {patch_size[0]} x {patch_size[1]} pixels, which are no square' in gap.reason


@pytest.mark.parametrize(('name', 'layer', 'grid'), [
    ('t2t', 0, (3, 3)), ('mvit', 1, (4, 4)), ('swin', 0, (4, 4)), ('swin', 3, (4, 4)),
    ('svt', 2, (2, 2)), ('svt', 3, (4, 4)), ('pcpvt', 0, (4, 4)), ('vit-sam', 1, (4, 4)),
    ('timm-swin-oblong-windows', 0, (4, 2)), ('timm-mvit-class-token', 0, (2, 2))])
def test_grid_of_the_keys(name: str, layer: int, grid: tuple[int, int]) -> None:
    family = BY_NAME[name]
    tap, pixels = build_tap(family.build()), family.images()
    tap.attach([('maps', layer)])
    with torch.no_grad(), tap.recording():
        tap.backbone(pixels)
        assert find_key_grid(tap, tap.record('maps', layer), 3, pixels.shape[-2:]) == grid


@pytest.mark.parametrize(('name', 'layers', 'reason'), [
    ('timm-hiera', [0, 3], 'tokens do not stand row by row'),
    ('timm-hiera', [1], r'queries \(4\) and keys \(16\) are not the same tokens'),
    ('mobilevit', [0, 1, 2], 'it is not known where the tokens of a window are'),
    ('pcpvt', [0, 1], r'queries \(64\) and keys \(16\) are not the same tokens'),
    ('mae', [0, 1, 2], 'it is not known where the 4 patches are')])
def test_reasons_for_no_distance(name: str, layers: list[int], reason: str) -> None:
    family = BY_NAME[name]
    meter = RedundancyMeter(family.build(), ['mean_attention_distance'])
    see(meter, [family.images()])
    assert all(bool(meter.compute()['mean_attention_distance'][layer].isnan().all())
               for layer in layers)
    assert any(gap.layers == layers and re.fullmatch(reason, gap.reason) for gap in meter.gaps())


def test_windows_that_padding_leaves_different_are_averaged() -> None:
    # 6 x 6 tokens in windows of 4: of 16, 8, 8 and 4 tokens; then 3 x 3 in one.
    torch.manual_seed(0)
    backbone = swin(img_size=12, pad_small_map=True).double()
    backbone.eval()
    pixels = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    names = ['head_cosine', 'attention_entropy', 'mean_attention_distance']
    meter = RedundancyMeter(backbone, names)
    see(meter, pixels.split([2, 1]))
    tap = build_tap(backbone)
    tap.attach([('maps', 0)])
    with torch.no_grad(), tap.recording():
        backbone(pixels)
        records = tap.records('maps', 0)
        windows = [window for record in records for window in record.maps]
    assert len(records) == 3 and len(windows) == 12
    values = meter.compute()
    for name in names[:2]:
        expected = torch.stack([CASES[name].reference(window, 0, None) for window in windows])
        assert_agrees(values[name][0], expected.mean(0))
    assert values['mean_attention_distance'][0].isnan().all()
    assert meter.gaps()[0].reason == 'windows at the edge are padded, and hold fewer tokens'


def test_distances_in_a_swin_are_those_of_its_window() -> None:
    # 8 x 8 tokens in windows of 4 x 4: no further than the diagonal of a window.
    backbone = build(SWIN)
    for stage in backbone.stages:
        for block in stage.blocks:
            block.attn.w_msa.softmax.register_forward_hook(
                lambda module, args, maps: torch.full_like(maps, 1 / maps.size(-1)))
    name = 'mean_attention_distance'
    places = [(y, x) for y in range(4) for x in range(4)]
    expected = sum(math.dist(a, b) for a in places for b in places) / 16**2
    for value in measure(backbone, [images(SWIN, 1)], [name])[name]:
        assert value.tolist() == pytest.approx([expected] * len(value), rel=1e-12)


@pytest.mark.parametrize('image_size', [(16, 32), (32, 16)])
def test_windows_of_a_swin_on_an_image_that_is_not_square(image_size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = swin(img_size=image_size).double()
    backbone.eval()
    values = measure(backbone, [torch.randn(2, 3, *image_size, dtype=torch.float64)],
                     ['mean_attention_distance'])['mean_attention_distance']
    assert all(bool(value.isfinite().all()) for value in values)


# Every family


@all_families
def test_every_family_is_measured_where_it_can_be(family: Family) -> None:
    meter = RedundancyMeter(family.build().double(), matrices='all', embed=True)
    see(meter, [family.images().double()])
    values = meter.compute()
    depth = len(meter.tap.blocks)
    without = {(name, layer) for gap in meter.gaps() for name in gap.measures
               for layer in gap.layers}
    assert family.with_maps or ('head_cosine', 0) in without
    for measured in meter.measures:
        value, layers = values[measured.name], meter.layers(measured)
        if measured.axis == 'layer pair':
            assert value.shape == (depth + 1, depth + 1) and not value.isinf().any()
            assert value.diagonal().isfinite().all()
        elif measured.captured == 'weight':
            assert list(value) == list(meter.matrices)
            assert all(len(blocks) == depth and tensor.isfinite().all()
                       for blocks in value.values() for tensor in blocks)
        else:
            assert len(value) == len(layers)
            for layer, tensor in zip(layers, value):
                heads = meter.tap.count_heads(layer) if measured.level == 'attention' else 0
                assert tensor.shape == {'layer': (), 'head': (heads, ),
                                        'head pair': (heads, heads)}[measured.axis]
                undefined = (measured.name, layer) in without
                # Outputs of few tokens, or the same for all, have no alignment.
                assert measured.name == 'head_output_cka' or \
                    torch.equal(tensor.isfinite(), torch.full_like(tensor, not undefined).bool())


@pytest.mark.parametrize('family', [family for family in FAMILIES if family not in MASKED],
                         ids=str)
def test_batch_size_does_not_matter_to_any_family(family: Family) -> None:
    backbone, pixels = family.build().double(), family.images().double()
    assert_same(measure(backbone, pixels.split([2, 1])), measure(backbone, [pixels]), rtol=1e-6,
                atol=1e-9)


@all_families
def test_every_family_is_left_as_it_was(family: Family) -> None:
    backbone, pixels = family.build(), family.images()
    with torch.no_grad():
        expected = backbone(pixels)
    before = hooks_of(backbone)
    meter = RedundancyMeter(backbone)
    with torch.no_grad(), meter.measuring():
        outputs = backbone(pixels)
    meter.detach()
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))
    assert hooks_of(backbone) == before


# What a backbone lacks


@pytest.fixture
def warnings_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(redundancy, 'print_log', lambda text, logger, level: said.append(text))
    return said


def test_blocks_without_maps_are_no_layers_of_attention() -> None:
    family = BY_NAME['davit']
    meter = RedundancyMeter(family.build(), ['head_cosine', 'token_cosine_signed', 'stable_rank'])
    see(meter, [family.images()])
    assert [meter.layers(measured) for measured in meter.measures] == [
        [0, 2], [0, 1, 2, 3], [0, 1, 2, 3]]
    names = list(name_summaries(meter))
    assert names[:4] == ['head_cosine', 'head_cosine/block_0', 'head_cosine/block_2',
                         'token_cosine_signed']


def test_values_of_blocks_with_maps_are_theirs() -> None:
    family = BY_NAME['davit']
    backbone, pixels = family.build(), family.images()
    tap = build_tap(backbone)
    tap.attach([('maps', 2)])
    with torch.no_grad(), tap.recording():
        backbone(pixels)
        maps = tap.record('maps', 2).maps.double()
    value = measure(backbone, [pixels], ['head_cosine'])['head_cosine'][1]
    expected = torch.stack([CASES['head_cosine'].reference(each, 0, None) for each in maps])
    torch.testing.assert_close(value, expected.mean(0), rtol=1e-5, atol=1e-5)


def test_measures_by_name_that_no_block_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['head_cosine'\] of `measures` cannot be had: XCiT "
                                         r'attends from channels to channels.*; leave them out'):
        RedundancyMeter(BY_NAME['xcit'].build(), ['stable_rank', 'head_cosine'])


@pytest.mark.parametrize('measures', ['all', 'default'])
def test_a_set_leaves_out_what_no_block_has_and_says_so(measures: str, warnings_of: list[str]
                                                        ) -> None:
    meter = RedundancyMeter(BY_NAME['xcit'].build(), measures)
    assert {measured.level for measured in meter.measures} == {'patch', 'weight'}
    gap, = meter.gaps()
    assert 'head_cosine' in gap.measures and gap.layers == [0, 1, 2]
    assert warnings_of == [f'not measured of XCiT: {gap}']
    assert 'in blocks 0 to 2: XCiT attends from channels to channels' in warnings_of[0]


def test_a_backbone_that_has_all_is_measured_without_a_word(warnings_of: list[str]) -> None:
    assert not RedundancyMeter(build(VIT)).gaps() and not warnings_of


def test_a_matrix_that_a_block_lacks_is_not_defined_there() -> None:
    # Its first block has neither queries nor keys.
    meter = RedundancyMeter(volo(outlook_attention=(True, False)), OF_WEIGHTS, matrices='all')
    assert set(meter.matrices) == set(ALL_MATRICES)
    for values in (meter.compute(), meter.measure_weights(('q', 'v'), per_head=True)):
        for name in OF_WEIGHTS:
            assert [bool(value.isnan().all()) for value in values[name]['q']] == [
                True, True, False]
            assert not any(bool(value.isnan().any()) for value in values[name]['v'])
    assert [(gap.matrix, gap.layers) for gap in meter.gaps()] == [('q', [0, 1]), ('k', [0, 1])]
    assert 'of q in blocks 0, 1: Outlooker has no such matrix' in str(meter.gaps()[0])


def test_means_over_matrices_are_of_those_that_there_are() -> None:
    values = dict(q=[float64(math.nan), float64(2.)], v=[float64(1.), float64(4.)])
    assert summarize(MEASURES['stable_rank'], values) == [1, 3]


def test_shares_of_heads_that_share_keys_are_no_matrices() -> None:
    meter = RedundancyMeter(BY_NAME['timm-eva-shared-keys'].build(), OF_WEIGHTS)
    assert meter.blocks_with('k') == [0, 1, 2] and not meter.blocks_with('k', per_head=True)
    assert [gap.matrix for gap in meter.gaps(['q', 'k'])] == ['heads in k']


def test_a_backbone_without_named_matrices_is_measured_at_other_levels() -> None:
    backbone = TIMMBackbone('vit_small_patch16_18x2_224', img_size=32, patch_size=16, embed_dim=32,
                            depth=2, num_heads=2)
    meter = RedundancyMeter(backbone)
    assert {measured.level for measured in meter.measures} == {'patch'}
    assert {gap.measures[0] for gap in meter.gaps()} == {'head_cosine', 'pca_energy'}
    with pytest.raises(ValueError, match=r"\['stable_rank'\] of `measures` cannot be had: a "
                                         'ParallelThingsBlock has several attentions'):
        RedundancyMeter(backbone, ['stable_rank'])


# The running mean


def test_mean_over_rows() -> None:
    mean, rows = RunningMean(), torch.randn(7, 2)
    for part in rows.split([3, 1, 3]):
        mean.add(part)
    torch.testing.assert_close(mean.mean(), rows.double().mean(0))


def test_no_rows_change_no_mean() -> None:
    mean, rows = RunningMean(), torch.randn(3, 2)
    mean.add(rows)
    mean.add(rows[:0])
    assert mean.count == 3
    torch.testing.assert_close(mean.mean(), rows.double().mean(0))


def test_the_last_row_can_be_taken_back() -> None:
    mean, rows = RunningMean(), torch.randn(4, 2)
    mean.add(rows)
    mean.drop_last()
    torch.testing.assert_close(mean.mean(), rows[:3].double().mean(0))


def test_many_rows_lose_nothing_to_rounding() -> None:
    mean = RunningMean()
    for _ in range(1000):
        mean.add(torch.full((2, ), 0.1))
    assert mean.mean().item() == pytest.approx(torch.tensor(0.1).double().item(), rel=1e-12)


# What single images say


@two_families
def test_what_images_say_is_on_average_what_is_measured(family: Family) -> None:
    meter = RedundancyMeter(build(family), embed=True)
    batch = images(family)
    see(meter, [batch[:4]], indices=[0, 5, 1, 2], subsample=[True, True, False, True])
    see(meter, [batch[4:]], indices=[6, 3], subsample=[False, True])
    found, values = meter.per_image(8), meter.compute()
    meter.detach()
    assert list(found) == OF_IMAGES
    for name, rows in found.items():
        looked_at = [0, 2, 3, 5] if name in SUBSAMPLED else [0, 1, 2, 3, 5, 6]
        summary = summarize(MEASURES[name], values[name])
        assert rows.shape == (8, len(summary))
        torch.testing.assert_close(rows[looked_at].mean(0), float64(summary), equal_nan=True)
        others = [index for index in range(8) if index not in looked_at]
        assert rows[others].isnan().all()
    alone = measure(meter.tap.backbone, [batch[1:2]], ['head_cosine'])['head_cosine']
    torch.testing.assert_close(found['head_cosine'][5],
                               float64(summarize(MEASURES['head_cosine'], alone)))


def test_the_spread_of_a_cka_is_that_of_leaving_images_out() -> None:
    backbone, batch = build(VIT), images(VIT, 40)
    meter = RedundancyMeter(backbone, ['linear_cka'])
    see(meter, [batch], indices=range(40))
    found = meter.per_image(40)
    meter.detach()
    for name, rows in found.items():
        left_out = torch.stack([float64(summarize(MEASURES[name], measure(
            backbone, [torch.cat([batch[:index], batch[index + 1:]])], [name])[name]))
            for index in range(40)])
        jackknife = left_out.std(0) * 39 / 40**.5
        torch.testing.assert_close(rows.std(0) / 40**.5, jackknife, rtol=.1, atol=1e-6)


def test_without_indices_no_image_is_remembered() -> None:
    meter = RedundancyMeter(build(VIT), ['head_cosine'])
    see(meter, [images(VIT)])
    meter.detach()
    assert not meter._kept and meter.per_image(6)['head_cosine'].isnan().all()


def test_shapes_of_tokens_and_matrices() -> None:
    backbone = build(VIT)
    meter = RedundancyMeter(backbone, matrices='all', embed=True)
    see(meter, [images(VIT)])
    meter.detach()
    shapes = meter.shapes()
    channels = backbone.embed_dims
    hidden = VIT.find_blocks(backbone)[0].ffn.layers[0][0].out_features
    blocks = len(VIT.find_blocks(backbone))
    tokens = math.prod(backbone.patch_resolution)
    assert shapes['tokens'] == [[tokens, channels]] * (blocks + 1)
    assert shapes['q'] == [[channels, channels]] * blocks
    assert shapes['fc1'] == [[hidden, channels]] * blocks
    assert shapes['fc2'] == [[channels, hidden]] * blocks


def test_a_block_without_a_matrix_has_no_shape_of_it() -> None:
    meter = RedundancyMeter(volo(outlook_attention=(True, False)), ['stable_rank'], 'all')
    shapes = meter.shapes()
    assert [shape is None for shape in shapes['q']] == [True, True, False]
    assert None not in shapes['v']


# One number for each layer


def float64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_layers_are_summarized_as_they_are() -> None:
    assert summarize(MEASURES['effective_rank'], [float64(2.), float64(3.)]) == [2, 3]


def test_heads_are_averaged() -> None:
    values = [float64([1., 2.]), float64([3., 4., 8.])]
    assert summarize(MEASURES['attention_entropy'], values) == [1.5, 5]


def test_pairs_of_different_heads_are_averaged() -> None:
    values = [float64([[9., 1.], [2., 9.]]), float64([[0., 1., 2.], [1., 0., 3.], [2., 3., 0.]])]
    assert summarize(MEASURES['head_cosine'], values) == [1.5, 2]


def test_one_head_has_no_pair() -> None:
    summary, = summarize(MEASURES['head_cosine'], [float64([[1.]])])
    assert math.isnan(summary)


def test_of_pairs_of_layers_neighbours_are_taken() -> None:
    values = float64([[1., .5, .1], [.5, 1., .6], [.1, .6, 1.]])
    assert summarize(MEASURES['linear_cka'], values) == [0.5, 0.6]


def test_neighbours_in_different_stages_are_not_defined() -> None:
    nan = math.nan
    values = float64([[1., .5, nan], [.5, 1., nan], [nan, nan, 1.]])
    summary = summarize(MEASURES['cross_layer_cosine'], values)
    assert summary[0] == 0.5 and math.isnan(summary[1]) and len(summary) == 2


def test_matrices_are_averaged() -> None:
    values = dict(q=[float64(1.), float64(2.)], k=[float64(3.), float64(6.)])
    assert summarize(MEASURES['stable_rank'], values) == [2, 4]


def test_curves_are_taken_at_a_quarter_and_averaged() -> None:
    values = dict(q=[float64([.4, .7, .9, 1.])], fc1=[float64([.1, .2, .3, .4, .5, .6, .8, 1.])])
    assert summarize(MEASURES['pca_energy'], values) == pytest.approx([0.3])


@pytest.mark.parametrize(('num', 'component'), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (384, 96)])
def test_a_quarter_of_the_components_is_rounded_up(num: int, component: int) -> None:
    assert quarter_energy(torch.arange(1., num + 1)) == component


def test_a_straight_line_has_a_quarter_of_the_energy() -> None:
    assert quarter_energy(torch.arange(1, 65).double() / 64) == 0.25


@pytest.mark.parametrize('family', [VIT, SWIN], ids=str)
@pytest.mark.parametrize('name', MEASURES)
def test_what_a_meter_gives_is_summarized_for_each_layer(family: Family, name: str) -> None:
    backbone = build(family)
    values = measure(backbone, [images(family, 2)], [name])[name]
    expected = len(family.find_blocks(backbone)) - (MEASURES[name].axis == 'layer pair')
    assert len(summarize(MEASURES[name], values)) == expected


# Names for logs


def names_of(family: Family, name: str, **options: bool) -> dict[str, float]:
    meter = RedundancyMeter(build(family), [name], **options)
    see(meter, [images(family, 2)])
    return name_summaries(meter)


def test_names_say_the_block() -> None:
    assert list(names_of(VIT, 'head_cosine')) == [
        'head_cosine', *(f'head_cosine/block_{layer}' for layer in range(3))]


def test_names_say_the_embedding() -> None:
    names = list(names_of(VIT, 'effective_rank', embed=True))
    assert names[1:3] == ['effective_rank/embed', 'effective_rank/block_0']


def test_names_of_neighbours_say_both() -> None:
    names = list(names_of(VIT, 'linear_cka', embed=True))
    assert names[1:] == ['linear_cka/embed-0', 'linear_cka/block_0-1', 'linear_cka/block_1-2']


def test_what_is_not_defined_has_no_name() -> None:
    # Between the stages of a Swin, blocks 1 and 2.
    names = list(names_of(SWIN, 'linear_cka'))
    assert names[1:] == ['linear_cka/block_0-1', 'linear_cka/block_2-3']


def test_the_first_name_is_the_mean_over_layers() -> None:
    mean, *layers = names_of(SWIN, 'linear_cka').values()
    assert mean == pytest.approx(sum(layers) / len(layers), rel=1e-12)


def test_layers_may_be_left_out() -> None:
    meter = RedundancyMeter(build(VIT), ['head_cosine', 'stable_rank'])
    see(meter, [images(VIT, 2)])
    assert list(name_summaries(meter, per_layer=False)) == ['head_cosine', 'stable_rank']


# Classifiers


def build_model(name: str = 'vit-nano_digits') -> nn.Module:
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return MODELS.build(Config.fromfile(DIGITS / f'{name}.py').model).train()


def batches(sizes: Sequence[int]) -> list[dict]:
    pixels = torch.randint(0, 256, (sum(sizes), 3, 16, 16),
                           generator=torch.Generator().manual_seed(0)).float()
    return [dict(inputs=part, data_samples=[DataSample() for _ in part])
            for part in pixels.split(sizes)]


@pytest.mark.parametrize('name', ['deit-nano_digits', 'swin-nano_digits'])
def test_a_classifier_has_a_list_for_every_measure(name: str) -> None:
    model = build_model(name)
    values = measure_redundancy(model, batches([2]), 'all')
    depth = len(RedundancyMeter(model.backbone, OF_WEIGHTS).tap.blocks)
    assert {measure: len(layers) for measure, layers in values.items()} == {
        name: depth - (measure.axis == 'layer pair') for name, measure in MEASURES.items()}


def test_a_classifier_is_measured_as_its_backbone() -> None:
    model, data = build_model(), batches([3])
    values = measure_redundancy(model, data, 'all')
    pixels = model.data_preprocessor(data[0], False)['inputs']
    expected = measure(model.backbone, [pixels])
    assert values == {name: pytest.approx(summarize(MEASURES[name], value), nan_ok=True)
                      for name, value in expected.items()}


@pytest.mark.parametrize('name', ['vit-nano_digits', 'swin-nano_digits'])
def test_batches_of_a_classifier_do_not_matter(name: str) -> None:
    model = build_model(name)
    whole, parts = (measure_redundancy(model, batches(sizes), 'all')
                    for sizes in ([6], [4, 1, 1]))
    # But for the rounding of the model, which an alignment of nearly equal tokens enlarges.
    assert parts == {name: pytest.approx(values, rel=1e-4 if MEASURES[name].finish else 1e-5,
                                         abs=1e-6, nan_ok=True)
                     for name, values in whole.items()}


def test_the_model_of_timms_classifier_is_its_backbone() -> None:
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(type='TimmClassifier', model_name='vit_tiny_patch16_224',
                              img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2))
    values = measure_redundancy(model, batches([2]), ['head_cosine'])
    assert len(values['head_cosine']) == 2


def test_a_classifier_is_left_in_evaluation_mode() -> None:
    model = build_model()
    measure_redundancy(model, batches([1]), ['head_cosine'])
    assert not any(module.training for module in model.modules())


def test_nothing_stays_attached_to_a_classifier() -> None:
    model = build_model()
    before = hooks_of(model)
    measure_redundancy(model, batches([1]), 'all')
    assert hooks_of(model) == before


def test_nothing_stays_attached_to_a_classifier_that_broke() -> None:
    model = build_model()
    before = hooks_of(model)

    def data() -> Iterator[dict]:
        yield from batches([1])
        raise OverflowError

    with pytest.raises(OverflowError):
        measure_redundancy(model, data(), 'all')
    assert hooks_of(model) == before


def test_no_batch_is_refused() -> None:
    model = build_model()
    with pytest.raises(RuntimeError, match='no image was measured'):
        measure_redundancy(model, [], 'all')
    assert hooks_of(model) == 0


def test_measures_of_a_classifier_have_to_be_named() -> None:
    with pytest.raises(TypeError, match='`measures`'):
        measure_redundancy(build_model(), batches([1]), 'head_cosine')


def test_a_measured_backbone_can_still_be_trained() -> None:
    torch.manual_seed(0)
    backbone = vit()
    measure(backbone, [images(VIT, 1, torch.float32)])
    backbone.train()
    backbone(images(VIT, 1, torch.float32))[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.layers.parameters())


def test_a_batch_of_one_shape_is_left_as_it_is() -> None:
    for inputs in (None, torch.zeros(2, 3, 4, 4), [torch.zeros(3, 4, 4)] * 2,
                   # Of several views that a model takes at once.
                   [torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)]):
        batch = dict(inputs=inputs, data_samples=[1, 2])
        assert split_batch(batch) == [[batch]]


def test_a_batch_is_split_by_shape() -> None:
    first, second, third = torch.rand(3, 4, 6), torch.rand(3, 6, 4), torch.rand(3, 4, 6)
    (one, ), (other, ) = split_batch(dict(inputs=[first, second, third], data_samples=[1, 2, 3]))
    assert one['inputs'] == [second] and one['data_samples'] == [2]
    assert other['data_samples'] == [1, 3]
    assert other['inputs'][0] is first and other['inputs'][1] is third


@pytest.mark.parametrize('size', [1, 3, 5])
def test_images_are_not_padded_to_each_others_shapes(size: int) -> None:
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(type='ImageClassifier', backbone=dict(
        type='VisionTransformer', img_size=16, patch_size=4, arch=dict(
            embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))))
    inputs = [torch.rand(3, *shape) for shape in ((16, 24), (24, 16), (16, 24), (16, 16), (8, 32))]
    batches = [dict(inputs=inputs[start:start + size]) for start in range(0, 5, size)]
    found = measure_redundancy(model, batches, ['token_cosine_absolute', 'head_cosine'])
    alone = [measure_redundancy(model, [dict(inputs=image[None])], [*found]) for image in inputs]
    for name, values in found.items():
        means = [sum(each) / 5 for each in zip(*(single[name] for single in alone))]
        assert values == pytest.approx(means, rel=1e-6)
