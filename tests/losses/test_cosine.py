"""Cosine losses: the forms of lower cost, closed-form values, options."""
import math

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import CosineLoss, CrossCosineLoss, mean_cosine, mean_cross_cosine
from mmdiverse.records import Record, TokenRecord
from mmdiverse.terms import build_loss
from tests import reference

FORMS = ('signed', 'absolute', 'squared')


def draw(num: int, dim: int) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(2, num, dim, dtype=torch.float64)
    x[0, 3] = 0  # counts 0, not 1, on the diagonal
    return x


class WithoutGram(TokenRecord):
    """Cannot give its ``M x M`` Gram matrix."""

    def map_gram(self, function, *items, normalize=True, smaller=False) -> Tensor:
        assert smaller
        return super().map_gram(function, *items, normalize=normalize, smaller=True)

    def map_cross_gram(self, other: Record, function, normalize=True) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize('form', ['signed', 'squared'])
@pytest.mark.parametrize('diagonal', [True, False])
def test_many_vectors_need_no_matrix_of_all_pairs(form: str, diagonal: bool) -> None:
    x = draw(9, 4)
    expected = torch.stack([reference.cosine(rows, form, diagonal) for rows in x])
    torch.testing.assert_close(mean_cosine(WithoutGram(x), form, diagonal), expected)


@pytest.mark.parametrize('form', ['signed', 'squared'])
def test_many_vectors_of_two_layers_need_no_matrix_of_all_pairs(form: str) -> None:
    x = draw(9, 4)
    expected = torch.stack([reference.cross_cosine(a, b, form) for a, b in zip(x, x.flip(0))])
    torch.testing.assert_close(
        mean_cross_cosine(WithoutGram(x), WithoutGram(x.flip(0)), form), expected)


@pytest.mark.parametrize('num', [4, 7, 9])
def test_number_of_vectors_does_not_matter_to_the_two_squared_forms(num: int) -> None:
    # At M = D and M = 2 D the cheaper one of the two changes.
    for dim in (num - 1, num, num + 1, (num - 1) // 2, (num + 1) // 2):
        x = draw(num, dim)
        torch.testing.assert_close(mean_cosine(TokenRecord(x)), torch.stack(
            [reference.cosine(rows, 'squared', False) for rows in x]))
        torch.testing.assert_close(
            mean_cross_cosine(TokenRecord(x), TokenRecord(x.flip(0))), torch.stack(
                [reference.cross_cosine(a, b, 'squared') for a, b in zip(x, x.flip(0))]))


@pytest.mark.parametrize(('form', 'expected'),
                         [('signed', -0.5), ('absolute', 0.5), ('squared', 0.25)])
def test_two_vectors_at_120_degrees(form: str, expected: float) -> None:
    angle = math.radians(120)
    record = TokenRecord(torch.tensor([[[2., 0.], [math.cos(angle), math.sin(angle)]]]))
    torch.testing.assert_close(mean_cosine(record, form), torch.tensor([expected]))


def test_signed_form_with_the_diagonal_is_the_squared_norm_of_the_mean_direction() -> None:
    record = TokenRecord(draw(6, 4))
    torch.testing.assert_close(mean_cosine(record, 'signed', diagonal=True),
                               record.mean_direction().square().sum(-1))


def test_opposite_clusters_satisfy_the_signed_form_alone() -> None:
    record = TokenRecord(torch.tensor([[[1., 0.], [1., 0.], [-1., 0.], [-1., 0.]]]))
    signed, squared = mean_cosine(record, 'signed', diagonal=True), mean_cosine(record, 'squared')
    assert (signed.item(), squared.item()) == (0, 1)


@pytest.mark.parametrize('form', FORMS)
def test_length_does_not_matter(form: str) -> None:
    x = draw(6, 4)
    torch.testing.assert_close(mean_cosine(TokenRecord(3 * x), form),
                               mean_cosine(TokenRecord(x), form))


def test_a_single_vector_will_do_with_the_diagonal() -> None:
    value = CosineLoss(diagonal=True)(TokenRecord(torch.ones(1, 1, 3)))
    torch.testing.assert_close(value, torch.ones(1))


@pytest.mark.parametrize('loss', [CosineLoss, CrossCosineLoss])
def test_default_is_squared(loss: type) -> None:
    assert loss().form == 'squared'


@pytest.mark.parametrize('loss', ['CosineLoss', 'CrossCosineLoss'])
def test_unknown_form(loss: str) -> None:
    with pytest.raises(ValueError, match="`form` must be one of .*'signed'.*got 'cubic'"):
        build_loss(loss, form='cubic')
