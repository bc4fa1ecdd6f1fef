"""Second derivatives are refused, not silently wrong."""
import pytest
import torch

from mmdiverse.attention import map_gram_of_maps
from mmdiverse.losses import power_step_eigenvalue_spread


def test_second_derivative_of_attention_terms_is_refused() -> None:
    q, k = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(2))
    value = map_gram_of_maps(q, k, 1., lambda gram: gram.sum((-2, -1)))
    with pytest.raises(RuntimeError, match='differentiated only once.*`create_graph=True`'):
        torch.autograd.grad(value.sum(), q, create_graph=True)


def test_second_derivative_of_the_power_step_is_refused() -> None:
    x = torch.randn(1, 3, 4, requires_grad=True)
    value = power_step_eigenvalue_spread(x, torch.rand(2, 1, 3))
    with pytest.raises(RuntimeError, match='differentiated only once'):
        torch.autograd.grad(value.sum(), x, create_graph=True)
