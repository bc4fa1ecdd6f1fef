"""Contrastive loss: closed-form values, lengths, which layers receive a gradient."""
import math

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import ContrastiveLoss, contrastive
from mmdiverse.records import TokenRecord
from mmdiverse.terms import build_loss

ORTHONORMAL = torch.eye(4)[None]
COLLAPSED = torch.ones(1, 4, 4)
OPPOSITE = torch.tensor([[[1., 0.], [-1., 0.]]])


def layers() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 4, 3, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize(('first', 'second', 'gap'), [
    (ORTHONORMAL, ORTHONORMAL, -1),
    (COLLAPSED, COLLAPSED, 0),
    (OPPOSITE, OPPOSITE, -2),
    (OPPOSITE, -OPPOSITE, 2),
], ids=['orthonormal', 'collapsed', 'least', 'greatest'])
def test_known_values(first: Tensor, second: Tensor, gap: float) -> None:
    value = contrastive(TokenRecord(first), TokenRecord(second))
    torch.testing.assert_close(value, torch.tensor([math.log1p(math.exp(gap))]))


def test_both_layers_receive_a_gradient() -> None:
    inputs = layers()
    ContrastiveLoss()(*map(TokenRecord, inputs)).sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in inputs)


def test_a_stopped_gradient_reaches_the_last_layer_alone() -> None:
    first, last = layers()
    ContrastiveLoss(stop_gradient=True)(TokenRecord(first), TokenRecord(last)).sum().backward()
    assert first.grad is None and last.grad.abs().sum() > 0


def test_a_stopped_gradient_does_not_change_that_of_the_last_layer() -> None:
    gradients = []
    for stop in (False, True):
        first, last = layers()
        ContrastiveLoss(stop_gradient=stop)(TokenRecord(first), TokenRecord(last)).sum().backward()
        gradients.append(last.grad)
    torch.testing.assert_close(*gradients)


def test_length_does_not_matter_to_directions() -> None:
    first, last = map(TokenRecord, layers())
    longer = TokenRecord(5 * last.vectors())
    torch.testing.assert_close(contrastive(first, longer), contrastive(first, last))


def test_vectors_as_they_are_reward_length() -> None:
    x = ORTHONORMAL
    short, long = (contrastive(TokenRecord(x), TokenRecord(factor * x), normalize=False)
                   for factor in (1, 3))
    torch.testing.assert_close(long, torch.tensor([math.log1p(math.exp(-3))]))
    assert long < short


def test_it_is_not_info_nce_and_has_no_temperature() -> None:
    with pytest.raises(TypeError, match='ContrastiveLoss.*stop_gradient.*temperature'):
        build_loss('ContrastiveLoss', temperature=0.1)
