"""Contrastive loss: closed-form values, gradient to both layers."""
import math

import pytest
import torch

from mmdiverse.losses import contrastive
from mmdiverse.records import TokenRecord
from mmdiverse.terms import build_loss

ORTHONORMAL = torch.eye(4)[None]
COLLAPSED = torch.ones(1, 4, 4)
OPPOSITE = torch.tensor([[[1., 0.], [-1., 0.]]])


@pytest.mark.parametrize(('first', 'second', 'gap'), [
    (ORTHONORMAL, ORTHONORMAL, -1),
    (COLLAPSED, COLLAPSED, 0),
    (OPPOSITE, OPPOSITE, -2),
    (OPPOSITE, -OPPOSITE, 2),
], ids=['orthonormal', 'collapsed', 'least', 'greatest'])
def test_known_values(first: torch.Tensor, second: torch.Tensor, gap: float) -> None:
    value = contrastive(TokenRecord(first), TokenRecord(second))
    torch.testing.assert_close(value, torch.tensor([math.log1p(math.exp(gap))]))


def test_both_layers_receive_a_gradient() -> None:
    torch.manual_seed(0)
    layers = [torch.randn(2, 4, 3, requires_grad=True) for _ in range(2)]
    contrastive(*(TokenRecord(x) for x in layers)).sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in layers)


def test_it_has_no_options() -> None:
    with pytest.raises(TypeError, match='ContrastiveLoss.*temperature'):
        build_loss('ContrastiveLoss', temperature=0.1)
