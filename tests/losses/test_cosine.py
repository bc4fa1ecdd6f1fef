"""Cosine losses: the linear form, closed-form values, options."""
import math

import pytest
import torch
from torch import Tensor

from mmdiverse.losses import CosineLoss, CrossCosineLoss, mean_cosine, mean_cross_cosine
from mmdiverse.records import TokenRecord
from mmdiverse.terms import build_loss


@pytest.fixture
def vectors() -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    x[0, 3] = 0  # counts 0, not 1, on the diagonal
    return x


def test_linear_form_equals_the_matrix_form(vectors: Tensor) -> None:
    record = TokenRecord(vectors)
    torch.testing.assert_close(mean_cosine(record, 'signed', diagonal=True),
                               record.gram().mean((1, 2)))


def test_linear_form_leaves_the_diagonal_out(vectors: Tensor) -> None:
    gram = TokenRecord(vectors).gram()
    off_diagonal = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(mean_cosine(TokenRecord(vectors), 'signed'),
                               gram[:, off_diagonal].mean(-1))


def test_linear_cross_form_equals_the_matrix_form(vectors: Tensor) -> None:
    first, second = TokenRecord(vectors), TokenRecord(vectors.flip(0))
    torch.testing.assert_close(mean_cross_cosine(first, second, 'signed'),
                               (first.unit_vectors() @ second.unit_vectors().mT).mean((1, 2)))


@pytest.mark.parametrize(('form', 'expected'),
                         [('signed', -0.5), ('absolute', 0.5), ('squared', 0.25)])
def test_two_vectors_at_120_degrees(form: str, expected: float) -> None:
    angle = math.radians(120)
    record = TokenRecord(torch.tensor([[[2., 0.], [math.cos(angle), math.sin(angle)]]]))
    torch.testing.assert_close(mean_cosine(record, form), torch.tensor([expected]))


def test_opposite_clusters_satisfy_the_signed_form_alone() -> None:
    record = TokenRecord(torch.tensor([[[1., 0.], [1., 0.], [-1., 0.], [-1., 0.]]]))
    signed, squared = mean_cosine(record, 'signed', diagonal=True), mean_cosine(record, 'squared')
    assert (signed.item(), squared.item()) == (0, 1)


def test_length_does_not_matter(vectors: Tensor) -> None:
    torch.testing.assert_close(mean_cosine(TokenRecord(3 * vectors)),
                               mean_cosine(TokenRecord(vectors)))


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
