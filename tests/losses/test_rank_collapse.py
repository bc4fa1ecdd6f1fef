"""Rank collapse: bounds, its relation to the signed cosine, both ways to compute it."""
import pytest
import torch
from torch import Tensor

from mmdiverse.losses import RankCollapseLoss, mean_cosine, rank_collapse
from mmdiverse.records import AttentionRecord, TokenRecord
from mmdiverse.terms import build_loss


def draw(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 5, 9, dtype=dtype)


def as_maps(x: Tensor) -> AttentionRecord:
    return AttentionRecord(maps=x.unflatten(-1, (3, 3)))


both_ways = pytest.mark.parametrize('record', [TokenRecord, as_maps], ids=['vectors', 'gram'])


@both_ways
def test_it_grows_from_0_to_1_with_what_all_have_in_common(record: type) -> None:
    values = rank_collapse(record(draw() + torch.arange(4.)[:, None, None]))
    assert values.min() > 0 and values.max() < 1 and values.diff().min() > 0


@both_ways
def test_equal_vectors_have_1(record: type) -> None:
    x = draw()[:, :1].expand(4, 5, 9)
    torch.testing.assert_close(rank_collapse(record(x)), torch.ones(4, dtype=x.dtype))


@both_ways
def test_vectors_that_cancel_have_0(record: type) -> None:
    x = draw()
    value = rank_collapse(record(x - x.mean(1, keepdim=True)))
    torch.testing.assert_close(value, torch.zeros(4, dtype=x.dtype), rtol=0, atol=1e-12)


@both_ways
def test_orthonormal_vectors(record: type) -> None:
    value = rank_collapse(record(torch.eye(5, 9)[None]))
    torch.testing.assert_close(value, torch.tensor([1 - (1 - 1 / 5)**0.5]))


@both_ways
def test_equal_vectors_have_no_gradient(record: type) -> None:
    x = draw()[:, :1].repeat(1, 5, 1).requires_grad_()
    rank_collapse(record(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=1e-6)


@both_ways
def test_long_equal_vectors_have_a_finite_gradient_in_float32(record: type) -> None:
    # Their squared lengths are so large that what is left, over them, is no number any more.
    x = 1e5 * draw(torch.float32)[:, :1].repeat(1, 5, 1)
    rank_collapse(record(x.requires_grad_())).sum().backward()
    assert x.grad.isfinite().all()


def test_of_vectors_of_one_length_it_is_a_function_of_the_signed_cosine() -> None:
    record = TokenRecord(torch.nn.functional.normalize(draw(), dim=-1))
    cosine = mean_cosine(record, 'signed', diagonal=True)
    torch.testing.assert_close(RankCollapseLoss()(record), 1 - (1 - cosine).sqrt())


def test_a_common_factor_of_length_does_not_matter() -> None:
    torch.testing.assert_close(rank_collapse(TokenRecord(3 * draw())),
                               rank_collapse(TokenRecord(draw())))


def test_long_vectors_count_more() -> None:
    x = torch.tensor([[[1., 0., 0.], [1., 0., 0.], [0., 1., 0.]]])
    longer = x * torch.tensor([3., 3., 1.])[:, None]
    assert rank_collapse(TokenRecord(longer)) > rank_collapse(TokenRecord(x))


def test_it_has_no_options() -> None:
    with pytest.raises(TypeError, match='RankCollapseLoss.*normalize'):
        build_loss('RankCollapseLoss', normalize=True)
