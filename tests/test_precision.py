"""Float32 agrees with float64 where very many numbers are added up."""
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mmdiverse
from mmdiverse.losses.cosine import mean_cosine
from mmdiverse.measures import MEASURES
from mmdiverse.measures.layers import linear_cka, linear_cka_terms
from mmdiverse.precision import PIECE, at_least_float32, inner_products, length
from mmdiverse.records import AttentionRecord, HeadRecord, Record, TokenRecord, WeightRecord
from tests.losses.cases import CASES, POWER, Case

#: Of the relative error, and of the error of what is all but zero.
LIMIT, SMALLEST = 2e-5, 1e-7
#: Pairs of tokens and entries of maps by the million, as of large images; few channels and heads,
#: so that products take no time.
TOKENS, CHANNELS = 1025, 64
HEADS, POSITIONS = 3, 1025

many = pytest.mark.parametrize('size', [1, PIECE, PIECE + 1, 1025**2], ids=str)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def equal_numbers(size: int) -> Tensor:
    """What rounds the same way every time."""
    return torch.full((2, size), 0.37)


def test_half_precision_is_raised() -> None:
    assert at_least_float32(torch.ones(1, dtype=torch.float16)).dtype == torch.float32
    assert at_least_float32(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


@many
def test_length_keeps_its_digits(size: int) -> None:
    vectors = equal_numbers(size)
    expected = vectors.double().square().sum(-1).sqrt()
    torch.testing.assert_close(length(vectors).double(), expected, rtol=5e-6, atol=0)


@many
def test_inner_products_keep_their_digits(size: int) -> None:
    vectors = equal_numbers(size)
    expected = vectors.double() @ vectors.double().mT
    torch.testing.assert_close(inner_products(vectors, vectors).double(), expected,
                               rtol=1.5e-5, atol=0)


@pytest.mark.parametrize('size', [5, 2 * PIECE + 5])
def test_gradients_are_those_of_the_plain_formulas(size: int) -> None:
    first, second = torch.randn(2, 3, 2, size, dtype=torch.float64)
    first.requires_grad_()
    for actual, expected in ((length(first), first.square().sum(-1).sqrt()),
                             (inner_products(first, second), first @ second.mT)):
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual.square().sum(), first),
                                   torch.autograd.grad(expected.square().sum(), first))


@pytest.mark.parametrize('size', [5, PIECE + 5])
def test_a_zero_vector_has_no_gradient(size: int) -> None:
    vector = torch.zeros(1, size, requires_grad=True)
    length(vector).sum().backward()
    assert not vector.grad.any()


def test_lengths_come_from_here_alone() -> None:
    # On a CPU the norms of PyTorch add up one number after the other.
    root = Path(mmdiverse.__file__).parent
    norms = re.compile(r'vector_norm|matrix_norm|\.norm\(')
    found = [path.name for path in root.rglob('*.py') if norms.search(path.read_text())]
    assert found == ['precision.py']


def of_parts(case: Case, starts: Tensor, records: Sequence[Record]) -> Tensor:
    # Of power iteration both precisions get the same starts.
    loss = case.build(starts.to(records[0].dtype))
    return loss(*records)


def assert_precise(function: Callable[[torch.dtype], Tensor]) -> None:
    """A value in float32 is that in float64, of the same numbers."""
    single, double = function(torch.float32).double(), function(torch.float64)
    torch.testing.assert_close(single, double, rtol=LIMIT, atol=SMALLEST, equal_nan=True)


def hard_tokens() -> Tensor:
    """Some that have much in common, some nearly equal, some of low rank, and one of great length.
    """
    tokens = torch.randn(1, TOKENS, CHANNELS)
    tokens[:, :500] += 10
    tokens[:, 500:750] = tokens[:, :1] + 1e-3 * tokens[:, 500:750]
    tokens[:, 750:1000] = tokens[:, 750:1000, :2] @ tokens[:, :2]
    tokens[:, -1] *= 50
    return tokens


#: What is not found again in float32 at the first step: random starts; and of vectors that are
#: nearly equal, which have no distance.
CHANCE = POWER.items()
PRECISE = [case for case in CASES if 'weight' in case.build().levels
           and not any(item in CHANCE for item in case.options.items())]
NEARLY_EQUAL = [case for case in PRECISE if case.type != 'GramDeterminantLoss'
                and str(case) != 'HypersphericalSeparationLoss-official=True']


@pytest.mark.parametrize('case', NEARLY_EQUAL, ids=str)
def test_losses_of_many_vectors(case: Case) -> None:
    starts = torch.rand(2, 1, TOKENS)
    vectors = [hard_tokens() for _ in range(case.build().num_records)]
    with torch.no_grad():
        assert_precise(lambda dtype: of_parts(
            case, starts, [WeightRecord(each.to(dtype)) for each in vectors]))


OF_HEADS = [case for case in PRECISE if 'attention' in case.build().levels]


@pytest.mark.parametrize('case', OF_HEADS, ids=str)
def test_losses_of_heads_that_are_nearly_orthogonal(case: Case) -> None:
    starts = torch.rand(2, 1, HEADS)
    heads = [torch.randn(1, HEADS, TOKENS, CHANNELS) for _ in range(case.build().num_records)]
    with torch.no_grad():
        assert_precise(lambda dtype: of_parts(
            case, starts, [HeadRecord(each.to(dtype)) for each in heads]))


@pytest.mark.parametrize('seed', range(4))
def test_directions_that_nearly_cancel(seed: int) -> None:
    torch.manual_seed(seed)
    tokens = torch.randn(1, 4097, 1024)
    single, double = (mean_cosine(TokenRecord(tokens.to(dtype)), 'signed')
                      for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.double(), double, rtol=LIMIT, atol=0)


def test_alignment_of_layers_with_one_token_and_one_channel_that_are_huge() -> None:
    layers = list(torch.randn(2, 1, 300, 200))
    for layer in layers:
        layer[:, 0] *= 1e3
        layer[:, :, 0] *= 1e2
    assert_precise(lambda dtype: linear_cka(
        linear_cka_terms([TokenRecord(layer.to(dtype)) for layer in layers])[0]))


def nearly_uniform(num: int = POSITIONS) -> Tensor:
    return 0.1 * torch.randn(1, HEADS, num, 8)


def nearly_alike(num: int = POSITIONS) -> Tensor:
    return torch.randn(1, 1, num, 8) + 1e-2 * torch.randn(1, HEADS, num, 8)


def sharp(num: int = POSITIONS) -> Tensor:
    return 4 * torch.randn(1, HEADS, num, 8)


every_kind_of_maps = pytest.mark.parametrize('draw', [nearly_uniform, nearly_alike, sharp],
                                             ids=lambda draw: draw.__name__)


@every_kind_of_maps
@pytest.mark.parametrize('stored', [True, False])
def test_losses_of_maps(draw: Callable[..., Tensor], stored: bool) -> None:
    starts = torch.rand(2, 1, HEADS)
    queries = [(draw(197), draw(197)) for _ in range(2)]
    maps = [(q @ k.mT * 0.3).softmax(-1) for q, k in queries]

    def records(num: int, dtype: torch.dtype) -> list[Record]:
        if stored:
            return [AttentionRecord(maps=each.to(dtype)) for each in maps[:num]]
        return [AttentionRecord(q=q.to(dtype), k=k.to(dtype), scale=0.3)
                for q, k in queries[:num]]

    with torch.no_grad():
        for case in PRECISE:
            num = case.build().num_records
            assert_precise(lambda dtype, case=case, num=num: of_parts(
                case, starts, records(num, dtype)))


def test_losses_of_long_heads() -> None:
    starts = torch.rand(2, 1, HEADS)
    heads = [1 + 1e-2 * torch.randn(1, HEADS, 197, 64) for _ in range(2)]
    for case in PRECISE:
        num = case.build().num_records
        assert_precise(lambda dtype, case=case, num=num: of_parts(
            case, starts, [HeadRecord(each.to(dtype)) for each in heads[:num]]))


@pytest.mark.parametrize('name', [name for name, measure in MEASURES.items()
                                  if measure.captured in ('patch', 'weight')])
def test_measures_of_many_vectors(name: str) -> None:
    measure = MEASURES[name]
    tokens = [hard_tokens()[:, :-1] for _ in range(2)]

    def value(dtype: torch.dtype) -> Tensor:
        records = [TokenRecord(each.to(dtype)) for each in tokens]
        with torch.no_grad():
            rows = measure.function(records if measure.axis == 'layer pair' else records[0])
        return rows if measure.finish is None else measure.finish(rows.double().mean(0))

    assert_precise(lambda dtype: value(dtype).double())


@every_kind_of_maps
@pytest.mark.parametrize('name', [name for name, measure in MEASURES.items()
                                  if measure.captured == 'maps'])
def test_measures_of_large_maps(name: str, draw: Callable[..., Tensor]) -> None:
    q, k = draw(), draw()

    def value(dtype: torch.dtype) -> Tensor:
        record = AttentionRecord(q=q.to(dtype), k=k.to(dtype), scale=0.3)
        record.num_prefix, record.grid = 1, (32, 32)
        with torch.no_grad():
            return MEASURES[name].function(record)

    assert_precise(lambda dtype: value(dtype))


def test_similarity_of_outputs_with_one_long_token() -> None:
    heads = torch.randn(1, HEADS, POSITIONS, 64)
    heads[:, :, 3] *= 50
    measure = MEASURES['head_output_cka']
    assert_precise(lambda dtype: measure.finish(
        measure.function(HeadRecord(heads.to(dtype))).double().mean(0)))
