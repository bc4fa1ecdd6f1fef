"""What every registered loss keeps to, whatever its formula."""

import pytest
import torch
from torch import Tensor

from mmdiverse.registry import LOSSES
from tests.losses.cases import CASES, Case, make_record

B, M, D = 2, 5, 9

LOSSES.import_from_location()

every_case = pytest.mark.parametrize('case', CASES, ids=str)


def draw(case: Case, shape: tuple[int, ...] = (B, M, D), dtype: torch.dtype = torch.float64
         ) -> tuple[list[Tensor], Tensor]:
    """Random vectors for every record of a loss, and random starts."""
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
               for _ in range(case.build().num_records)]
    return vectors, torch.rand((2, *shape[:2]), generator=generator, dtype=torch.float64)


def evaluate(case: Case, vectors: list[Tensor], starts: Tensor, level: str = 'patch') -> Tensor:
    level = level if level in case.build().levels else case.build().levels[0]
    return case.build(starts)(*(make_record(level, x, layer)
                                for layer, x in enumerate(vectors)))


def value_and_gradients(case: Case, vectors: list[Tensor], starts: Tensor) -> list[Tensor]:
    vectors = [x.detach().requires_grad_() for x in vectors]
    value = evaluate(case, vectors, starts)
    value.sum().backward()
    return [value, *(x.grad for x in vectors)]


def duplicate(x: Tensor) -> Tensor:
    return x[:, :1].repeat(1, x.size(1), 1)


def one_zero(x: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(x[:, :1]), x[:, 1:]), dim=1)


def orthonormal(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.eye(*shape[1:], dtype=dtype).expand(shape)


DEGENERATE = {
    'duplicate': duplicate,
    'one-zero': one_zero,
    'all-zero': torch.zeros_like,
    'orthonormal': lambda x: orthonormal(x.shape, x.dtype),
    'huge': lambda x: 1e4 * x,
    'huge-duplicate': lambda x: 1e4 * duplicate(x),
}


def test_every_registered_loss_has_a_case() -> None:
    registered = {loss for loss in LOSSES.module_dict
                  if LOSSES.module_dict[loss].__module__.startswith('mmdiverse.')}
    assert registered == {case.type for case in CASES}


@every_case
def test_one_value_per_item(case: Case) -> None:
    assert evaluate(case, *draw(case)).shape == (B, )


@every_case
@pytest.mark.parametrize('shape', [(B, M, D), (B, 6, 4)], ids=['M<D', 'M>D'])
def test_agrees_with_plain_loops(case: Case, shape: tuple[int, ...]) -> None:
    vectors, starts = draw(case, shape)
    expected = [case.reference([x[b] for x in vectors], starts[:, b]) for b in range(B)]
    torch.testing.assert_close(evaluate(case, vectors, starts), torch.stack(expected),
                               rtol=1e-10, atol=1e-12)


@every_case
def test_value_does_not_depend_on_the_level(case: Case) -> None:
    vectors, starts = draw(case)
    values = [evaluate(case, vectors, starts, level) for level in case.build().levels]
    assert all(torch.equal(value, values[0]) for value in values)


@every_case
@pytest.mark.parametrize('kind', DEGENERATE)
def test_degenerate_vectors_are_finite_in_float32(case: Case, kind: str) -> None:
    vectors, starts = draw(case, dtype=torch.float32)
    results = value_and_gradients(case, [DEGENERATE[kind](x) for x in vectors], starts)
    assert all(result.isfinite().all() for result in results)


@every_case
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    vectors, starts = draw(case, dtype=dtype)
    results = value_and_gradients(case, vectors, starts)
    assert results[0].dtype == torch.float32 and all(r.isfinite().all() for r in results)


@every_case
def test_gradient_is_that_of_the_value(case: Case) -> None:
    vectors, starts = draw(case)
    inputs = [x.requires_grad_() for x in vectors]
    assert torch.autograd.gradcheck(lambda *x: evaluate(case, list(x), starts), inputs)


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
    before, *gradients = value_and_gradients(case, vectors, starts)
    length = sum(float(gradient.square().sum()) for gradient in gradients)**0.5
    stepped = [x - 1e-4 / length * gradient for x, gradient in zip(vectors, gradients)]
    assert evaluate(case, stepped, starts).sum() < before.sum()


@every_case
def test_collapsed_vectors_score_worse_than_orthogonal_ones(case: Case) -> None:
    if case.no_collapse:
        pytest.skip(case.no_collapse)
    vectors, starts = draw(case)
    spread = orthonormal(vectors[0].shape)
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


def test_two_layers_of_different_shapes_are_refused_and_named() -> None:
    for case in CASES:
        loss = case.build()
        if loss.num_records == 2:
            records = [make_record(loss.levels[0], torch.ones(1, m, 4), layer)
                       for layer, m in ((2, 5), (9, 6))]
            with pytest.raises(ValueError, match=r'layers \[2, 9\].*change `layers`'):
                loss(*records)


