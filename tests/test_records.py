"""Records: their summaries against plain loops, degenerate vectors, dtypes, prefix tokens."""
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdiverse.records import (
    AttentionRecord,
    HeadRecord,
    Record,
    TokenRecord,
    WeightRecord,
    merge_weights,
)
from tests import reference


@pytest.fixture
def vectors() -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    x[1, 2] = 0  # a zero vector among others
    return x


def gram(record: Record, normalize: bool = True, smaller: bool = False) -> Tensor:
    """The whole Gram matrix, entry by entry."""
    num = min(record.shape[1:]) if smaller else record.shape[1]
    return torch.stack([torch.stack([
        record.map_gram(lambda gram, i=i, j=j: gram[:, i, j], normalize=normalize, smaller=smaller)
        for j in range(num)], -1) for i in range(num)], -2)


@pytest.mark.parametrize('normalize', [True, False])
def test_gram_is_all_inner_products(vectors: Tensor, normalize: bool) -> None:
    expected = torch.stack([reference.gram(rows, normalize) for rows in vectors])
    torch.testing.assert_close(gram(TokenRecord(vectors), normalize), expected)


def test_mean_direction_is_the_mean_of_the_directions(vectors: Tensor) -> None:
    expected = torch.stack([reference.mean_direction(rows) for rows in vectors])
    torch.testing.assert_close(TokenRecord(vectors).mean_direction(), expected)


def test_unit_vectors_are_the_directions(vectors: Tensor) -> None:
    expected = torch.stack([torch.stack([reference.unit(row) for row in rows])
                            for rows in vectors])
    torch.testing.assert_close(TokenRecord(vectors).unit_vectors(), expected)


def test_a_zero_vector_stays_zero(vectors: Tensor) -> None:
    assert not TokenRecord(vectors).unit_vectors()[1, 2].any()


def test_a_short_vector_is_no_zero_vector() -> None:
    short = TokenRecord(torch.tensor([[[3e-7, 4e-7]]]))
    torch.testing.assert_close(short.unit_vectors(), torch.tensor([[[0.6, 0.8]]]))
    torch.testing.assert_close(short.mean_direction(), torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize('summary', [Record.unit_vectors, gram, Record.mean_direction])
def test_a_zero_vector_has_a_finite_gradient(vectors: Tensor, summary: Callable) -> None:
    vectors.requires_grad_()
    summary(TokenRecord(vectors)).sum().backward()
    assert vectors.grad.isfinite().all()


def test_a_zero_map_has_a_finite_gradient(vectors: Tensor) -> None:
    maps = vectors.unflatten(-1, (2, 3)).requires_grad_()
    gram(AttentionRecord(maps=maps)).sum().backward()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize('normalize', [True, False])
def test_the_smaller_gram_has_the_same_norm_trace_and_eigenvalues(normalize: bool) -> None:
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    large, small = (gram(TokenRecord(x), normalize, smaller) for smaller in (False, True))
    assert small.shape == (2, 3, 3)
    torch.testing.assert_close(torch.linalg.eigvalsh(large)[:, -3:], torch.linalg.eigvalsh(small))
    torch.testing.assert_close(large.norm(dim=(1, 2)), small.norm(dim=(1, 2)))


@pytest.mark.parametrize('normalize', [True, False])
def test_cross_gram_is_all_inner_products_of_two_records(vectors: Tensor, normalize: bool) -> None:
    other = vectors.flip(0)
    expected = [reference.gram(torch.cat(rows), normalize)[:4, 4:]
                for rows in zip(vectors, other)]
    for column in range(4):
        actual = TokenRecord(vectors).map_cross_gram(
            TokenRecord(other), lambda gram, column=column: gram[:, 2, column], normalize)
        torch.testing.assert_close(actual, torch.stack([matrix[2, column] for matrix in expected]))


def test_items_go_with_their_matrices() -> None:
    x, numbers = torch.randn(5, 3, 4), torch.arange(5.)
    parts = WeightRecord(list(x.split([2, 1, 2])))
    actual = parts.map_gram(lambda gram, number: gram[:, 0, 0] * number, numbers)
    torch.testing.assert_close(actual, numbers)


SUMMARIES = ('mean', 'gram', 'centred_gram', 'spectrum', '_norms', '_inverse_norms',
             '_unit_vectors', '_cosines')


def outputs_of(record: Record, name: str) -> tuple[Tensor, ...]:
    value = getattr(record, name)
    return value if isinstance(value, tuple) else (value, )


@pytest.mark.parametrize('name', SUMMARIES)
def test_a_summary_has_a_graph_where_gradients_are_wanted_and_there_alone(name: str) -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    record = TokenRecord(x)
    with torch.inference_mode():
        first = outputs_of(record, name)
    with torch.no_grad():
        second = outputs_of(record, name)
    third = outputs_of(record, name)
    with torch.no_grad():
        fourth = outputs_of(record, name)
    for value in (first, second, fourth):
        assert not any(part.requires_grad for part in value)
    assert all(part.requires_grad for part in third)
    torch.testing.assert_close(fourth, tuple(part.detach() for part in third))
    assert outputs_of(record, name)[0].requires_grad


def test_a_summary_is_computed_once() -> None:
    record = TokenRecord(torch.randn(2, 3, 4))
    assert record.gram is record.gram


def test_a_summary_follows_vectors_that_begin_to_train() -> None:
    x = torch.randn(2, 3, 4)
    record = TokenRecord(x)
    assert not record.mean.requires_grad
    x.requires_grad_()
    assert record.mean.requires_grad


def test_autocast_does_not_reach_a_summary() -> None:
    x = torch.randn(2, 3, 4)
    q, k = torch.randn(2, 2, 3, 5, 4)
    with torch.autocast('cpu', torch.bfloat16):
        gram, maps = TokenRecord(x).gram, AttentionRecord(q=q, k=k, scale=1.).maps
    assert torch.equal(gram, TokenRecord(x).gram)
    assert torch.equal(maps, AttentionRecord(q=q, k=k, scale=1.).maps)


def test_a_part_keeps_summaries_of_its_own_mode() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    record = TokenRecord(x)
    with torch.no_grad():
        record.mean  # noqa: B018, it is kept
    part = record.select(slice(1, 2))
    assert part.mean.requires_grad
    with torch.no_grad():
        assert torch.equal(record.select(slice(1, 2)).mean, x[1:].mean(1, keepdim=True))


@pytest.mark.parametrize('record', [
    TokenRecord(torch.ones(2, 3, 4, requires_grad=True)),
    HeadRecord(torch.ones(2, 3, 4, 5, requires_grad=True)),
    WeightRecord([torch.ones(2, 3, 4, requires_grad=True)] * 2),
    AttentionRecord(maps=torch.ones(2, 3, 4, 4, requires_grad=True)),
    AttentionRecord(q=torch.ones(2, 3, 4, 5, requires_grad=True), k=torch.ones(2, 3, 4, 5),
                    scale=1.)])
def test_detached_records_hold_the_same_without_gradient(record: Record) -> None:
    detached = record.detach()
    assert type(detached) is type(record) and record.vectors().requires_grad
    assert not detached.vectors().requires_grad
    assert torch.equal(detached.vectors(), record.vectors())


def test_a_head_is_its_flattened_values() -> None:
    heads = torch.randn(2, 3, 5, 4)
    record = HeadRecord(heads)
    assert record.shape == (2, 3, 20)
    assert torch.equal(record.vectors()[1, 2], heads[1, 2].reshape(-1))


@pytest.mark.parametrize('world_size', [1, 2, 3, 7])
def test_shares_of_all_processes_are_the_whole_in_order(world_size: int) -> None:
    x = torch.randn(5, 3, 4)
    whole = WeightRecord(list(x.split([2, 3])))
    shares = [whole.share(rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat([share.vectors() for share in shares]), x)
    assert all(torch.equal(x[share.items], share.vectors()) and share.total == 5
               for share in shares)
    sizes = [len(share.vectors()) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_maps_are_rebuilt_from_queries_and_keys() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 5, 4, dtype=torch.float64)
    expected = torch.stack([
        torch.stack([reference.attention_maps(q[b, h], k[b, h], 0.7) for h in range(3)])
        for b in range(2)])
    torch.testing.assert_close(AttentionRecord(q=q, k=k, scale=0.7).maps, expected)


def test_one_vector_of_attention_is_the_flattened_map_of_a_head() -> None:
    maps = torch.rand(2, 3, 5, 5).softmax(-1)
    record = AttentionRecord(maps=maps)
    torch.testing.assert_close(record.vectors()[1, 2], maps[1, 2].reshape(-1))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_lower_precision_becomes_float32(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, 4, 4, dtype=dtype)
    records = [TokenRecord(x[0]), WeightRecord(x[0]), AttentionRecord(maps=x),
               AttentionRecord(q=x, k=x, scale=0.5)]
    assert {record.vectors().dtype for record in records} == {torch.float32}


def test_float64_stays_float64(vectors: Tensor) -> None:
    assert TokenRecord(vectors).vectors().dtype == torch.float64


def test_prefix_tokens_are_left_out(vectors: Tensor) -> None:
    assert torch.equal(TokenRecord(vectors, num_prefix=1).vectors(), vectors[:, 1:])


@pytest.mark.parametrize('given', [(), ('q', 'k'), ('q', 'scale'), ('maps', 'q', 'k', 'scale')])
def test_attention_needs_either_maps_or_queries_and_keys(given: tuple[str, ...]) -> None:
    values = {name: 0.5 if name == 'scale' else torch.ones(1, 1, 2, 2) for name in given}
    with pytest.raises(ValueError, match='either `maps` or all of `q`, `k` and `scale`'):
        AttentionRecord(**values)


def test_maps_need_no_queries_and_keys_beside_them() -> None:
    maps = torch.ones(1, 1, 2, 2)
    assert torch.equal(AttentionRecord(maps=maps).maps, maps)


def test_merged_weights_keep_their_order_and_are_grouped_by_shape() -> None:
    a, b, c = torch.randn(3, 4, 4), torch.randn(1, 4, 8), torch.randn(2, 4, 4)
    square, wide = merge_weights([WeightRecord(a), WeightRecord(b), WeightRecord(c)])
    assert square.shape == (5, 4, 4) and wide.shape == (1, 4, 8)
    assert torch.equal(square.vectors(), torch.cat([a, c]))
    assert square.parts()[0] is a


KEPT = torch.tensor([0]), torch.tensor([[0, 1, 2]])  # of four tokens


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('kept', [-10., -60., -95., -200., -800.])
def test_rows_sum_to_one_where_next_to_nothing_went_to_the_tokens_kept(kept: float,
                                                                       dtype: torch.dtype) -> None:
    scores = torch.zeros(1, 2, 4, 4, dtype=dtype)
    scores[0, 0, :, :3] = kept
    scores.requires_grad_()
    maps = AttentionRecord(maps=scores.softmax(-1)).keep_tokens(*KEPT).maps
    torch.testing.assert_close(maps, torch.full_like(maps, 1 / 3))
    maps[..., 0].log().sum().backward()
    assert scores.grad.isfinite().all()


def test_rows_of_tokens_kept_are_those_of_a_softmax_over_them() -> None:
    scores = 5 * torch.randn(1, 2, 4, 4, dtype=torch.float64)
    maps = AttentionRecord(maps=scores.softmax(-1)).keep_tokens(*KEPT).maps
    torch.testing.assert_close(maps, scores[:, :, :3, :3].softmax(-1), rtol=1e-14, atol=0)
