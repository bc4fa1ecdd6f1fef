"""Functions of inner products of maps that are never stored."""
import re

import pytest
import torch
from torch import Tensor

from mmdiverse import attention
from mmdiverse.attention import Budget, map_gram_of_maps
from tests import reference

SCALE = 0.5


@pytest.fixture
def queries_and_keys() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True)
                 for _ in range(2))


def function(gram: Tensor) -> Tensor:
    """Something that treats no two entries alike."""
    factors = torch.arange(1., 1 + gram[0].numel()).view(gram[0].shape)
    return (factors * gram.square()).sum((-2, -1))


def plain(q: Tensor, k: Tensor) -> Tensor:
    maps = ((q * SCALE) @ k.mT).softmax(-1).flatten(2)
    return function(maps @ maps.mT)


def test_agrees_with_the_loop(queries_and_keys) -> None:
    q, k = (tensor.detach() for tensor in queries_and_keys)
    rows = torch.stack([reference.attention_maps(q[0, head], k[0, head], SCALE).flatten()
                        for head in range(2)])
    expected = function(reference.gram(rows, normalize=False)[None])
    torch.testing.assert_close(map_gram_of_maps(q, k, SCALE, function)[:1], expected)


# One row at a time; some; some of two images; an image; all.
@pytest.mark.parametrize('budget', [(1, 1), (30, 30), (60, 30), (60, 60), (10**6, 10**6)])
def test_blocks_do_not_matter(queries_and_keys, budget: tuple[int, int], monkeypatch) -> None:
    monkeypatch.setattr(attention, 'CPU_BUDGET', Budget(*budget))
    actual = map_gram_of_maps(*queries_and_keys, SCALE, function)
    torch.testing.assert_close(actual, plain(*queries_and_keys))
    grads = torch.autograd.grad(actual.square().sum(), queries_and_keys)
    expected = torch.autograd.grad(plain(*queries_and_keys).square().sum(), queries_and_keys)
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize('entries', [1, 10**6])
def test_gradient(queries_and_keys, entries: int, monkeypatch) -> None:
    monkeypatch.setattr(attention, 'CPU_BUDGET', Budget(entries, entries))
    assert torch.autograd.gradcheck(
        lambda q, k: map_gram_of_maps(q, k, SCALE, function), queries_and_keys)


@pytest.mark.parametrize('entries', [1, 10**6])
def test_items_go_with_their_images(queries_and_keys, entries: int, monkeypatch) -> None:
    monkeypatch.setattr(attention, 'CPU_BUDGET', Budget(entries, entries))
    numbers = torch.arange(3., dtype=torch.float64)
    actual = map_gram_of_maps(*queries_and_keys, SCALE,
                              lambda gram, number: number * function(gram), numbers)
    torch.testing.assert_close(actual, numbers * plain(*queries_and_keys))


@pytest.mark.parametrize('entries', [1, 10**6])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(queries_and_keys, entries: int, dtype: torch.dtype,
                                               monkeypatch) -> None:
    monkeypatch.setattr(attention, 'CPU_BUDGET', Budget(entries, entries))
    half = [tensor.detach().to(dtype).requires_grad_() for tensor in queries_and_keys]
    single = [tensor.detach().float().requires_grad_() for tensor in half]
    actual = map_gram_of_maps(*half, SCALE, function)
    torch.testing.assert_close(actual, plain(*single))
    grads = torch.autograd.grad(actual.sum(), half)
    expected = torch.autograd.grad(plain(*single).sum(), single)
    assert all(grad.dtype == dtype for grad in grads)
    torch.testing.assert_close(grads, tuple(grad.to(dtype) for grad in expected))


@pytest.fixture
def warnings_of_float16(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(attention, '_underflow', attention._Underflow())
    monkeypatch.setattr(attention, 'print_log', lambda message, *args: messages.append(message))
    return messages


@pytest.mark.parametrize(('dtype', 'factor', 'warns'), [
    (torch.float16, 1e-8, True), (torch.float16, 1., False), (torch.float16, 0., False),
    (torch.bfloat16, 1e-8, False), (torch.float32, 1e-8, False)])
def test_gradients_that_float16_loses_are_told_once(
        queries_and_keys, dtype: torch.dtype, factor: float, warns: bool,
        warnings_of_float16: list[str]) -> None:
    for _ in range(2):
        q, k = (tensor.detach().to(dtype).requires_grad_() for tensor in queries_and_keys)
        (factor * map_gram_of_maps(q, k, SCALE, function)).sum().backward()
    assert len(warnings_of_float16) == int(warns)
    if warns:
        assert re.search(r'float16 loses \d+% of the gradient.*`optim_wrapper.dtype=\'bfloat16\'`'
                         '.*raise the `weight`', warnings_of_float16[0])


def test_the_loss_scale_comes_before_float16(queries_and_keys, warnings_of_float16: list[str]
                                             ) -> None:
    coefficient, scale = 1e-8, 2.**27
    q, k = (tensor.detach().half().requires_grad_() for tensor in queries_and_keys)
    (coefficient * scale * map_gram_of_maps(q, k, SCALE, function)).sum().backward()
    single = [tensor.detach().float().requires_grad_() for tensor in (q, k)]
    plain(*single).sum().backward()
    for half, exact in zip((q, k), single):
        torch.testing.assert_close(half.grad.float() / scale, coefficient * exact.grad,
                                   rtol=1e-3, atol=0)
    assert not warnings_of_float16


# Where an image fits into a block its gradients are kept, else the inputs themselves.
@pytest.mark.parametrize('entries', [1, 10**6])
def test_nothing_as_large_as_the_maps_is_kept_for_the_backward_pass(entries: int, monkeypatch
                                                                   ) -> None:
    monkeypatch.setattr(attention, 'CPU_BUDGET', Budget(entries, entries))
    q, k = (torch.randn(2, 3, 50, 4, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x,
                                                  lambda x: x):
        map_gram_of_maps(q, k, SCALE, function)
    assert max(kept) == q.numel()


def test_nothing_is_kept_without_gradient() -> None:
    q, k = (torch.randn(2, 3, 5, 4) for _ in range(2))
    assert not map_gram_of_maps(q, k, SCALE, function).requires_grad


def test_a_frozen_side_gets_no_gradient(queries_and_keys) -> None:
    q, k = queries_and_keys
    map_gram_of_maps(q.detach(), k, SCALE, function).sum().backward()
    expected, = torch.autograd.grad(plain(q.detach(), k).sum(), k)
    assert q.grad is None
    torch.testing.assert_close(k.grad, expected)
