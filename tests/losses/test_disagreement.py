"""Disagreement: closed-form values, bounds, and what the form of raw maps rewards."""
import pytest
import torch
from torch import Tensor

from mmdiverse.losses import CosineLoss, DisagreementLoss, mean_inner_product
from mmdiverse.records import AttentionRecord, HeadRecord
from mmdiverse.terms import DiversityTerm
from tests.losses.cases import HEADS, SHARP_MAPS, TOKENS, UNIFORM_MAPS


def heads() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 5, dtype=torch.float64)


def test_of_directions_it_is_the_signed_cosine_with_its_diagonal() -> None:
    record = HeadRecord(heads())
    torch.testing.assert_close(DisagreementLoss()(record),
                               CosineLoss(form='signed', diagonal=True)(record))


def test_mean_inner_product_is_the_squared_norm_of_the_mean() -> None:
    x = heads()
    torch.testing.assert_close(mean_inner_product(HeadRecord(x)),
                               x.mean(1).square().sum((-2, -1)))


def test_maps_and_other_heads_have_the_same_mean_inner_product() -> None:
    x = heads()[..., :4]
    torch.testing.assert_close(mean_inner_product(AttentionRecord(maps=x)),
                               mean_inner_product(HeadRecord(x)))


def test_raw_maps_reward_uniform_ones_over_sharp_different_ones() -> None:
    uniform, sharp = (DisagreementLoss(normalize=False)(AttentionRecord(maps=maps)).item()
                      for maps in (UNIFORM_MAPS, SHARP_MAPS))
    assert (uniform, sharp) == pytest.approx((1, TOKENS / HEADS))


def test_directions_of_maps_reward_different_ones() -> None:
    uniform, sharp = (DisagreementLoss()(AttentionRecord(maps=maps)).item()
                      for maps in (UNIFORM_MAPS, SHARP_MAPS))
    assert (uniform, sharp) == pytest.approx((1, 1 / HEADS))


def test_raw_maps_have_at_most_the_number_of_tokens() -> None:
    equal = AttentionRecord(maps=SHARP_MAPS[:, :1].expand_as(SHARP_MAPS))
    value = DisagreementLoss(normalize=False)(equal)
    torch.testing.assert_close(value, torch.tensor([float(TOKENS)]))


@pytest.mark.parametrize('level', ['patch', 'weight'])
def test_it_is_for_heads(level: str) -> None:
    with pytest.raises(ValueError, match='DisagreementLoss cannot work at `on='):
        DiversityTerm('DisagreementLoss', on=level, weight=1)
