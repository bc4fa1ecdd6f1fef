"""What every registered loss keeps to, whatever its formula."""
import inspect
import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from mmdiverse import attention
from mmdiverse.attention import Budget, softmax_maps
from mmdiverse.losses import (
    contrastive,
    mean_cosine,
    mean_cross_cosine,
    mean_inner_product,
    rank_collapse,
    relative_residual,
    soft_orthogonality,
)
from mmdiverse.records import AttentionRecord, HeadRecord, Record, WeightRecord
from mmdiverse.registry import LOSSES
from mmdiverse.terms import build_loss
from tests.losses.cases import CASES, SHARP_MAPS, UNIFORM_MAPS, Case, make_record

B, M, D = 2, 5, 9
SHAPES = {'M<D': (B, M, D), 'M>D': (B, 9, 4)}
#: Images, heads, tokens and channels of queries and keys.
QUERIES = (3, 3, 4, 2)
SCALES = (0.7, 1.1)

LOSSES.import_from_location()


def cases_at(level: str, num_records: int | None = None) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if level in case.build().levels
              and num_records in (None, case.build().num_records)]
    return pytest.mark.parametrize('case', chosen, ids=str)


every_case = pytest.mark.parametrize('case', CASES, ids=str)
every_shape = pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)


def draw(case: Case, shape: tuple[int, ...] = (B, M, D), dtype: torch.dtype = torch.float64
         ) -> tuple[list[Tensor], Tensor]:
    """Random vectors for every record of a loss, and random starts."""
    # Of this seed the eigenvalues at both ends are well apart, so that power iteration converges.
    generator = torch.Generator().manual_seed(190)
    vectors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
               for _ in range(case.build().num_records)]
    starts = torch.rand((2, *shape[:2]), generator=generator, dtype=torch.float64)
    return vectors, starts if dtype == torch.float64 else starts.float()


def draw_queries_and_keys(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries and keys of the first record, then of the second if there is one."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(QUERIES, generator=generator, dtype=torch.float64).to(dtype)
            for _ in range(2 * case.build().num_records)]


def fused(inputs: Sequence[Tensor]) -> list[Record]:
    """Records of queries and keys."""
    return [AttentionRecord(layer, q=q, k=k, scale=scale) for layer, (q, k, scale)
            in enumerate(zip(inputs[::2], inputs[1::2], SCALES))]


def stored(inputs: Sequence[Tensor]) -> list[Record]:
    """Records of the maps of queries and keys."""
    return [AttentionRecord(layer, maps=softmax_maps(q, k, scale)) for layer, (q, k, scale)
            in enumerate(zip(inputs[::2], inputs[1::2], SCALES))]


def evaluate(case: Case, vectors: Sequence[Tensor], starts: Tensor | None = None,
             level: str = '') -> Tensor:
    loss = case.build(starts)
    return loss(*(make_record(level or loss.levels[0], x, layer)
                  for layer, x in enumerate(vectors)))


def leaves(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().clone().requires_grad_() for x in inputs]


def gradients(case: Case, value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of all inputs of all records; zeros for a record that is to have none."""
    value.sum().backward()
    per_record = len(inputs) // case.build().num_records
    frozen = [index // per_record in case.frozen for index in range(len(inputs))]
    assert frozen == [x.grad is None for x in inputs]
    return [torch.zeros_like(x) if x.grad is None else x.grad for x in inputs]


def duplicate(x: Tensor) -> Tensor:
    return x[:, :1].repeat(1, x.size(1), *[1] * (x.dim() - 2))


def one_zero(x: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(x[:, :1]), x[:, 1:]), dim=1)


def orthonormal(x: Tensor) -> Tensor:
    return torch.eye(*x.shape[1:], dtype=x.dtype).expand(x.shape)


DEGENERATE = {
    'duplicate': duplicate,
    'nearly duplicate': lambda x: duplicate(x) + 1e-3 * x,
    'opposite': lambda x: torch.cat((x[:, :1], -x[:, :1], x[:, 2:]), dim=1),
    'one zero': one_zero,
    'all zero': torch.zeros_like,
    'orthonormal': orthonormal,
    'huge': lambda x: 1e4 * x,
    'huge duplicate': lambda x: 1e4 * duplicate(x),
    'huge orthonormal': lambda x: 6e4 * orthonormal(x),
}
#: Of queries and keys. The maps of zeros are uniform, those of huge ones have one entry per row.
DEGENERATE_QUERIES = {
    'duplicate': duplicate,
    'nearly duplicate': lambda x: duplicate(x) + 1e-3 * x,
    'one zero': one_zero,
    'all zero': torch.zeros_like,
    'huge': lambda x: 1e4 * x,
    'huge duplicate': lambda x: 1e4 * duplicate(x),
}
#: Type of the inputs, and of autocast where it is on.
PRECISIONS = {
    'float32': (torch.float32, None),
    'float16': (torch.float16, None),
    'bfloat16': (torch.bfloat16, None),
    'autocast to float16': (torch.float32, torch.float16),
    'autocast to bfloat16': (torch.float32, torch.bfloat16),
}
every_precision = pytest.mark.parametrize(('dtype', 'autocast'), PRECISIONS.values(),
                                          ids=PRECISIONS)


def autocast_to(dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None)


def is_finite(case: Case, value: Tensor, inputs: Sequence[Tensor]) -> bool:
    """Whether a value of order one, as the coefficient of a term makes it, and its gradient are."""
    scaled = value / value.detach().abs().clamp_min(1)
    return all(result.isfinite().all() for result in (value, *gradients(case, scaled, inputs)))


def test_every_registered_loss_has_a_case() -> None:
    registered = {loss for loss in LOSSES.module_dict
                  if LOSSES.module_dict[loss].__module__.startswith('mmdiverse.')}
    assert registered == {case.type for case in CASES}


@every_case
def test_one_value_per_item(case: Case) -> None:
    assert evaluate(case, *draw(case)).shape == (B, )


@every_case
@every_shape
def test_agrees_with_plain_loops(case: Case, shape: tuple[int, ...]) -> None:
    vectors, starts = draw(case, shape)
    expected = [case.expected([x[b] for x in vectors], starts[:, b]) for b in range(B)]
    torch.testing.assert_close(evaluate(case, vectors, starts), torch.stack(expected),
                               rtol=1e-10, atol=1e-12)


@every_case
def test_value_does_not_depend_on_the_level(case: Case) -> None:
    vectors, starts = draw(case)
    for level in case.build().levels:
        torch.testing.assert_close(evaluate(case, vectors, starts, level),
                                   evaluate(case, vectors, starts), rtol=1e-10, atol=1e-12)


@every_case
@every_precision
def test_degenerate_vectors_are_finite(case: Case, dtype: torch.dtype,
                                       autocast: torch.dtype | None) -> None:
    vectors, starts = draw(case, dtype=dtype)
    broken = []
    for level, (kind, change) in product(case.build().levels, DEGENERATE.items()):
        inputs = leaves([change(x) for x in vectors])
        with autocast_to(autocast):
            value = evaluate(case, inputs, starts, level)
        if not is_finite(case, value, inputs):
            broken.append(f'{kind} at level {level}')
    assert not broken


@cases_at('attention')
@every_precision
def test_degenerate_queries_and_keys_are_finite(case: Case, dtype: torch.dtype,
                                                autocast: torch.dtype | None) -> None:
    broken = []
    for kind, change in DEGENERATE_QUERIES.items():
        inputs = leaves([change(x) for x in draw_queries_and_keys(case, dtype)])
        with autocast_to(autocast):
            value = case.build()(*fused(inputs))
        if not is_finite(case, value, inputs):
            broken.append(kind)
    assert not broken


@every_case
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_what_is_not_finite_is_not_hidden(case: Case, bad: float) -> None:
    vectors, starts = draw(case, dtype=torch.float32)
    vectors[0][0, 1, 2] = bad
    for level in case.build().levels:
        assert evaluate(case, vectors, starts, level).isfinite().tolist() == [False, True]


@every_case
@every_precision
def test_it_is_computed_in_float32(case: Case, dtype: torch.dtype,
                                   autocast: torch.dtype | None) -> None:
    vectors, starts = draw(case, dtype=dtype)
    for level in case.build().levels:
        expected = evaluate(case, [x.float() for x in vectors], starts, level)
        with autocast_to(autocast):
            assert torch.equal(evaluate(case, vectors, starts, level), expected)
    assert expected.dtype == torch.float32


@cases_at('attention')
@every_precision
def test_it_is_computed_in_float32_of_queries_and_keys(case: Case, dtype: torch.dtype,
                                                       autocast: torch.dtype | None) -> None:
    inputs = draw_queries_and_keys(case, dtype)
    expected = case.build()(*fused([x.float() for x in inputs]))
    with autocast_to(autocast):
        assert torch.equal(case.build()(*fused(inputs)), expected)


@every_case
@every_shape
def test_gradient_is_that_of_the_value(case: Case, shape: tuple[int, ...]) -> None:
    vectors, starts = draw(case, shape)
    inputs = [x.requires_grad_(index not in case.frozen) for index, x in enumerate(vectors)]
    assert torch.autograd.gradcheck(lambda *x: evaluate(case, x, starts), inputs)


@cases_at('attention')
def test_gradient_of_queries_and_keys_is_that_of_the_value(case: Case) -> None:
    inputs = [x[:1].requires_grad_(index // 2 not in case.frozen)
              for index, x in enumerate(draw_queries_and_keys(case))]
    assert torch.autograd.gradcheck(lambda *x: case.build()(*fused(x)), inputs)


@cases_at('attention')
@pytest.mark.parametrize('budget', ['two rows', 'two images', 'everything'])
def test_maps_need_not_be_stored(case: Case, budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, heads, tokens, _ = QUERIES
    row = heads * case.build().num_records * tokens
    entries = {'two rows': 2 * row, 'two images': 2 * row * tokens, 'everything': 10**6}[budget]
    monkeypatch.setattr(attention, 'CPU_BUDGET', Budget(entries, entries))
    starts = torch.rand(2, images, heads, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([1., -3., 2.], dtype=torch.float64)  # every image with its own gradient
    results = []
    for records in (fused, stored):
        inputs = leaves(draw_queries_and_keys(case))
        value = case.build(starts)(*records(inputs))
        results.append([value, *gradients(case, factor * value, inputs)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@cases_at('attention')
@pytest.mark.parametrize('budget', [1, 10**6])
def test_nothing_as_large_as_the_maps_of_an_image_is_kept(
        case: Case, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, 'CPU_BUDGET', Budget(budget, budget))
    inputs = [torch.randn(2, 3, 16, 2, requires_grad=True)
              for _ in range(2 * case.build().num_records)]
    kept = []
    records = fused(inputs)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x,
                                                  lambda x: x):
        value = case.build()(*records)
    assert value.requires_grad and 0 < max(kept) < 3 * 16**2
    assert not any('maps' in record.kept() for record in records)


@cases_at('weight')
def test_matrices_may_come_in_several_tensors(case: Case) -> None:
    vectors, starts = draw(case)
    results = []
    for sizes in ([B], [1] * B):
        inputs = leaves(vectors)
        value = case.build(starts)(*(WeightRecord(x.split(sizes)) for x in inputs))
        results.append([value, *gradients(case, value, inputs)])
    torch.testing.assert_close(*results)


@cases_at('weight', num_records=1)
def test_a_share_of_the_matrices_has_the_values_that_it_has_among_all(case: Case) -> None:
    record = WeightRecord(draw(case)[0][0])
    shares = [record.share(rank, B) for rank in range(B)]
    torch.testing.assert_close(torch.cat([case.build()(share) for share in shares]),
                               case.build()(record))


def kinds_of_records(case: Case) -> dict[str, tuple[list[Tensor], Callable]]:
    """Of every kind of record that a loss takes, its tensors and what makes records of them."""
    vectors, _ = draw(case)
    kinds = {level: (vectors, lambda inputs, level=level: [
        make_record(level, x, layer) for layer, x in enumerate(inputs)])
        for level in case.build().levels}
    if 'attention' in kinds:
        kinds['queries and keys'] = draw_queries_and_keys(case), fused
        kinds['heads'] = ([x.unflatten(-1, (3, 3)) for x in vectors],
                          lambda inputs: [*map(HeadRecord, inputs)])
    return kinds


@every_case
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_what_was_measured_before_does_not_change_the_gradient(case: Case, mode: Callable) -> None:
    # Random starts are drawn anew, and end a little elsewhere.
    precision = dict(rtol=1e-4, atol=1e-4) if 'steps' in case.options else {}
    for inputs, make in kinds_of_records(case).values():
        starts = torch.rand(2, *inputs[0].shape[:2], dtype=torch.float64)
        results = []
        for measured in (False, True):
            own, loss = leaves(inputs), case.build(starts)
            records = make(own)
            if measured:
                with mode():
                    assert not loss(*records).requires_grad
            value = loss(*records)
            results.append([value, *gradients(case, value, own)])
            with mode():
                again = loss(*records)
            assert not again.requires_grad
            torch.testing.assert_close(again, value.detach(), **(precision or dict(
                rtol=1e-7, atol=1e-9)))
        torch.testing.assert_close(*results, **precision)


@every_case
def test_vectors_that_changed_are_seen(case: Case) -> None:
    # As weights do in a step of an optimizer.
    for inputs, make in kinds_of_records(case).values():
        starts = torch.rand(2, *inputs[0].shape[:2], dtype=torch.float64)
        own = [x.clone() for x in inputs]
        records, loss = make(own), case.build(starts)
        with torch.no_grad():
            loss(*records)
            for x in own:
                x.add_(torch.linspace(0, 1, x[0].numel(), dtype=x.dtype).view(x[0].shape))
            torch.testing.assert_close(loss(*records), case.build(starts)(*make(own)),
                                       rtol=1e-4, atol=1e-6)


@every_case
def test_order_of_the_vectors_does_not_matter(case: Case) -> None:
    vectors, starts = draw(case)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(evaluate(case, [x[:, order] for x in vectors], starts[..., order]),
                               evaluate(case, vectors, starts))


@every_case
def test_an_item_does_not_depend_on_the_rest_of_its_batch(case: Case) -> None:
    vectors, starts = draw(case)
    alone = [evaluate(case, [x[b:b + 1] for x in vectors], starts[:, b:b + 1]) for b in range(B)]
    torch.testing.assert_close(torch.cat(alone), evaluate(case, vectors, starts))


@every_case
def test_a_small_step_against_the_gradient_lowers_it(case: Case) -> None:
    vectors, starts = draw(case)
    inputs = leaves(vectors)
    before = evaluate(case, inputs, starts)
    slopes = gradients(case, before, inputs)
    length = sum(float(slope.square().sum()) for slope in slopes)**0.5
    stepped = [x - 1e-4 / length * slope for x, slope in zip(vectors, slopes)]
    assert evaluate(case, stepped, starts).sum() < before.sum()


@every_case
def test_collapsed_vectors_score_worse_than_orthogonal_ones(case: Case) -> None:
    vectors, starts = draw(case)
    spread = orthonormal(vectors[0])
    collapsed = evaluate(case, [duplicate(spread)] * len(vectors), starts)
    assert (collapsed > evaluate(case, [spread] * len(vectors), starts)).all()


@every_case
def test_too_few_vectors_are_refused_and_layers_named(case: Case) -> None:
    loss = case.build()
    few = torch.ones(1, loss.min_vectors - 1, 4)
    with pytest.raises(ValueError, match=f'{case.type} needs at least {loss.min_vectors} vec'
                                         '.*layer 7.*change `layers` or `on`'):
        loss(*[make_record(loss.levels[0], few, 7)] * loss.num_records)


@every_case
def test_docstring_says_what_it_takes_and_where_it_comes_from(case: Case) -> None:
    loss = LOSSES.get(case.type)
    assert 'Source:' in loss.__doc__
    for option in case.options:
        assert f'\n        {option} (' in loss.__doc__ or f'\n    {option} (' in loss.__doc__


@pytest.mark.parametrize('type', sorted({case.type for case in CASES}))
def test_tables_have_its_formula_and_cost(type: str) -> None:
    loss = LOSSES.get(type)
    assert loss.formula and loss.cost and set(loss.levels) <= {'patch', 'attention', 'weight'}


def test_two_layers_of_different_shapes_are_refused_and_named() -> None:
    for case in CASES:
        loss = case.build()
        if loss.num_records == 2:
            records = [make_record(loss.levels[0], torch.ones(1, m, 4), layer)
                       for layer, m in ((2, 5), (9, 6))]
            with pytest.raises(ValueError, match=r'layers \[2, 9\].*change `layers`'):
                loss(*records)


NO_RECORDS = {'tensor': torch.ones(2, 5, 9), 'array': np.ones((2, 5, 9)), 'list': [[1., 2.]],
              'list of records': [WeightRecord(torch.ones(2, 5, 9))], 'none': None}


@every_case
@pytest.mark.parametrize('given', NO_RECORDS.values(), ids=NO_RECORDS)
def test_what_is_no_record_is_refused_and_records_are_named(case: Case, given: object) -> None:
    loss = case.build()
    with pytest.raises(TypeError, match=f'{case.type} takes records.*but got '
                                        f'{type(given).__name__}.*TokenRecord.*AttentionRecord.*'
                                        'HeadRecord.*WeightRecord'):
        loss(*[given] * loss.num_records)


def test_the_shape_of_a_tensor_is_named() -> None:
    with pytest.raises(TypeError, match=r'CosineLoss.*but got Tensor of shape \(2, 5, 9\)'):
        build_loss('CosineLoss')(torch.ones(2, 5, 9))


@every_case
def test_another_number_of_records_is_refused(case: Case) -> None:
    loss = case.build()
    record = make_record(loss.levels[0], draw(case)[0][0])
    for num in {0, 1, 2, 3} - {loss.num_records}:
        with pytest.raises(TypeError, match=f'{case.type} takes {loss.num_records} record.*'
                                            f'but got {num}'):
            loss(*[record] * num)


FUNCTIONS = [mean_cosine, mean_cross_cosine, contrastive, mean_inner_product, rank_collapse,
             relative_residual, soft_orthogonality]


@pytest.mark.parametrize('function', FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_of_records_take_no_tensors(function: Callable) -> None:
    num = 2 if 'second' in inspect.signature(function).parameters else 1
    with pytest.raises(TypeError, match=f'{function.__name__} takes records.*but got Tensor'):
        function(*[torch.ones(2, 5, 9)] * num)


def tight_frame(num: int, dim: int) -> Tensor:
    """Directions whose ``X^T X`` is a multiple of the identity: harmonics on a circle."""
    turns = 2 * torch.pi * torch.arange(num, dtype=torch.float64)[:, None] / num
    waves = torch.arange(1, dim // 2 + 1) * turns
    frame = torch.cat((waves.cos(), waves.sin()), dim=1)
    constant = torch.full((num, dim % 2), 0.5**0.5, dtype=torch.float64)
    return torch.nn.functional.normalize(torch.cat((frame, constant), dim=1), dim=1)[None]


#: Least values that docstrings state, of ``M`` vectors in fewer dimensions ``D``.
FLOORS = [
    ('CosineLoss', {}, lambda num, dim: (num - dim) / (dim * (num - 1))),
    ('CosineLoss', dict(diagonal=True), lambda num, dim: 1 / dim),
    ('CosineLoss', dict(form='signed', diagonal=True), lambda num, dim: 0),
    ('CosineLoss', dict(form='signed'), lambda num, dim: -1 / (num - 1)),
    ('SoftOrthogonalityLoss', {}, lambda num, dim: num * (num - dim) / dim),
    ('SRIPLoss', {}, lambda num, dim: num / dim - 1),
    ('ConditionalOrthogonalityLoss', dict(normalize=True), lambda num, dim: (num / dim)**2),
]
#: The same of vectors of any length, at its least for frames of this squared length.
SHORT_FLOORS = [
    ('SoftOrthogonalityLoss', dict(normalize=False), lambda num, dim: num - dim),
    ('SRIPLoss', dict(normalize=False), lambda num, dim: 0),
]
every_frame = pytest.mark.parametrize(('num', 'dim'), [(7, 4), (13, 4), (30, 12)])


@every_frame
@pytest.mark.parametrize(('type', 'options', 'floor'), FLOORS + SHORT_FLOORS)
def test_floors_are_reached_by_a_tight_frame_and_nothing_is_below(
        type: str, options: dict, floor: Callable, num: int, dim: int) -> None:
    loss, frame = build_loss(type, **options), tight_frame(num, dim)
    if options.get('normalize') is False:
        frame = frame * (dim / num)**0.5
    assert loss(WeightRecord(frame)).item() == pytest.approx(floor(num, dim), abs=1e-12)
    vectors = torch.randn(50, num, dim, dtype=torch.float64)
    nearby = frame + 0.1 * vectors
    for others in (vectors, nearby):
        assert (loss(WeightRecord(others)) > floor(num, dim)).all()


def test_uniform_maps_disagree_most_of_all() -> None:
    loss = build_loss('DisagreementLoss', normalize=False)
    tokens = UNIFORM_MAPS.size(-1)
    assert loss(AttentionRecord(maps=UNIFORM_MAPS)).item() == pytest.approx(1)
    alike = SHARP_MAPS[:, :1].expand_as(SHARP_MAPS)
    assert loss(AttentionRecord(maps=alike)).item() == pytest.approx(tokens)
    assert loss(AttentionRecord(maps=torch.randn(9, 3, 8, 8).softmax(-1))).min() > 1


@pytest.mark.parametrize('num', [2, 3, 6])
def test_a_simplex_is_best_separated(num: int) -> None:
    simplex = torch.eye(num, dtype=torch.float64)[None] - 1 / num
    loss = build_loss('HypersphericalSeparationLoss', temperature=0.)
    assert loss(WeightRecord(simplex)).item() == pytest.approx(-2 * num / (num - 1))


@pytest.mark.parametrize('bandwidth', [100., 1.])
def test_the_determinant_is_bounded(bandwidth: float) -> None:
    loss = build_loss('GramDeterminantLoss', bandwidth=bandwidth)
    value = loss(WeightRecord(torch.eye(5, dtype=torch.float64)[None])).item()
    assert value >= -5 * math.log(1 + 1e-6) - 1e-9
    assert (value == pytest.approx(0, abs=1e-5)) == (bandwidth == 100)
    equal = loss(WeightRecord(torch.ones(1, 5, 3, dtype=torch.float64))).item()
    assert equal <= -4 * math.log(1e-6)
