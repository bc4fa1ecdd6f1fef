import pytest
import torch
from torch import Tensor

from mmdiverse import attention
from mmdiverse.attention import squared_mean_map_direction
from mmdiverse.records import AttentionRecord
from tests import reference


@pytest.fixture
def queries_and_keys() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True)
                 for _ in range(2))


def plain(q: Tensor, k: Tensor) -> Tensor:
    maps = ((q * .5) @ k.mT).softmax(-1).flatten(2)
    return (maps / maps.norm(dim=-1, keepdim=True)).mean(1).square().sum(-1)


def test_equals_the_stored_maps(queries_and_keys) -> None:
    actual = squared_mean_map_direction(*queries_and_keys, .5)
    torch.testing.assert_close(actual, plain(*queries_and_keys))


def test_agrees_with_the_loop(queries_and_keys) -> None:
    q, k = (tensor.detach() for tensor in queries_and_keys)
    rows = [reference.attention_maps(q[0, head], k[0, head], .5).flatten() for head in range(2)]
    expected = reference.cosine(torch.stack(rows), 'signed', diagonal=True)
    torch.testing.assert_close(squared_mean_map_direction(q, k, .5)[0], expected)


def test_gradient(queries_and_keys) -> None:
    assert torch.autograd.gradcheck(
        lambda q, k: squared_mean_map_direction(q, k, .5), queries_and_keys)


@pytest.mark.parametrize('entries', [1, 100, 10**6])
def test_chunks_do_not_matter(queries_and_keys, entries: int, monkeypatch) -> None:
    monkeypatch.setattr(attention, 'MAX_ENTRIES_CPU', entries)
    actual = squared_mean_map_direction(*queries_and_keys, .5)
    torch.testing.assert_close(actual, plain(*queries_and_keys))
    grads = torch.autograd.grad(actual.square().sum(), queries_and_keys)
    expected = torch.autograd.grad(plain(*queries_and_keys).square().sum(), queries_and_keys)
    torch.testing.assert_close(grads, expected)


def test_nothing_as_large_as_the_maps_is_kept_for_the_backward_pass() -> None:
    q, k = (torch.randn(2, 3, 50, 4, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x,
                                                  lambda x: x):
        squared_mean_map_direction(q, k, .5)
    assert max(kept) == q.numel()


def test_record_takes_the_maps_where_they_exist() -> None:
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    first, second = (AttentionRecord(q=q, k=k, scale=.5) for _ in range(2))
    first.gram()
    torch.testing.assert_close(first.squared_mean_direction(), second.squared_mean_direction())
    assert 'maps' in vars(first) and 'maps' not in vars(second)
