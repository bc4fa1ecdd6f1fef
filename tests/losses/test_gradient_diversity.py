"""Gradient diversity and its bounded form: known values, bounds, options."""
import pytest
import torch
from torch import Tensor

from mmdiverse.losses import GradientDiversityLoss, gradient_coherence, gradient_diversity
from mmdiverse.records import TokenRecord
from mmdiverse.terms import DiversityTerm, build_loss

EQUAL = torch.ones(1, 4, 3)
ORTHOGONAL = 2 * torch.eye(4)[None]
CANCELLING = torch.tensor([[[1., 0.], [-1., 0.]]])
ZERO = torch.zeros(1, 4, 3)


def draw() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(50, 4, 3, dtype=torch.float64)


@pytest.mark.parametrize(('gradients', 'expected'), [
    (EQUAL, 1), (ORTHOGONAL, 1 / 4), (CANCELLING, 0), (ZERO, 0)],
    ids=['equal', 'orthogonal', 'cancelling', 'zero'])
def test_known_coherence(gradients: Tensor, expected: float) -> None:
    torch.testing.assert_close(gradient_coherence(gradients), torch.tensor([float(expected)]))


@pytest.mark.parametrize(('gradients', 'expected'), [
    (EQUAL, 1 / 4), (ORTHOGONAL, 1), (ZERO, 0)], ids=['equal', 'orthogonal', 'zero'])
def test_known_diversity(gradients: Tensor, expected: float) -> None:
    torch.testing.assert_close(gradient_diversity(gradients), torch.tensor([float(expected)]))


def test_coherence_lies_between_0_and_1() -> None:
    assert 0 <= gradient_coherence(draw()).min() and gradient_coherence(draw()).max() <= 1


def test_diversity_is_at_least_one_over_their_number() -> None:
    assert gradient_diversity(draw()).min() >= 1 / 4


def test_diversity_has_no_upper_bound() -> None:
    assert gradient_diversity(CANCELLING + torch.tensor([1e-6, 0.])) > 1e11


def test_coherence_is_diversity_upside_down() -> None:
    torch.testing.assert_close(gradient_coherence(draw()), 1 / (4 * gradient_diversity(draw())))


def test_more_of_the_authors_form_is_more_diverse() -> None:
    record = TokenRecord(draw())
    torch.testing.assert_close(GradientDiversityLoss(form='diversity')(record),
                               -gradient_diversity(draw()))


@pytest.mark.parametrize('form', ['coherence', 'diversity'])
def test_how_long_all_gradients_are_does_not_matter(form: str) -> None:
    loss = GradientDiversityLoss(form)
    torch.testing.assert_close(loss(TokenRecord(1e-6 * draw())), loss(TokenRecord(draw())))


@pytest.mark.parametrize('level', ['attention', 'weight'])
def test_it_is_for_patches(level: str) -> None:
    with pytest.raises(ValueError, match='GradientDiversityLoss cannot work at `on='):
        DiversityTerm('GradientDiversityLoss', on=level, weight=1)


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="`form` must be one of .*'coherence'.*got 'signed'"):
        build_loss('GradientDiversityLoss', form='signed')
