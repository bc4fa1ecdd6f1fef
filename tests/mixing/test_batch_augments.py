"""Mixup and CutMix that say how they mixed."""
import numpy as np
import pytest
import torch
from mmpretrain.models.utils.batch_augments import CutMix, Mixup
from torch import Tensor

from mmdiverse.mixing import PatchCutMix, PatchMix, PatchMixup, patch_shares
from tests import reference

PAIRS = [(Mixup, PatchMixup), (CutMix, PatchCutMix)]
AUGMENTS = [PatchMixup, PatchCutMix]


def images(batch: int = 4) -> Tensor:
    return torch.rand((batch, 3, 12, 18), generator=torch.Generator().manual_seed(0))


def seed(number: int) -> None:
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.mark.parametrize('number', range(40))
def test_shares_are_the_means_of_a_pixel_mask(number: int) -> None:
    rng = np.random.default_rng(number)
    patch = tuple(rng.integers(1, 6, 2).tolist())
    image = tuple(side * int(rng.integers(1, 6)) for side in patch)
    y1, y2 = sorted(rng.integers(0, image[0] + 1, 2).tolist())
    x1, x2 = sorted(rng.integers(0, image[1] + 1, 2).tolist())
    torch.testing.assert_close(
        patch_shares((y1, y2, x1, x2), image, patch, torch.float64),
        reference.patch_shares((y1, y2, x1, x2), image, patch), rtol=0, atol=1e-12)


@pytest.mark.parametrize(('box', 'share'), [((0, 12, 0, 18), 0), ((5, 5, 0, 18), 1)])
def test_shares_of_a_whole_and_of_an_empty_box(box: tuple[int, ...], share: float) -> None:
    assert (patch_shares(box, (12, 18), (4, 6)) == share).all()


def test_mean_share_is_the_share_of_the_image() -> None:
    seed(0)
    _, mix = PatchCutMix(alpha=1.0)(images())
    assert mix.box is not None
    torch.testing.assert_close(mix.shares((12, 18), (4, 6)).mean(), torch.tensor(mix.lam))


def test_shares_of_mixup_are_all_those_of_the_image() -> None:
    shares = PatchMix(torch.arange(2), 0.3).shares((12, 18), (4, 6))
    assert torch.equal(shares, torch.full((9, ), 0.3))


@pytest.mark.parametrize(('host', 'ours'), PAIRS)
@pytest.mark.parametrize('number', range(5))
def test_mixed_images_are_those_of_mmpretrain(host: type, ours: type, number: int) -> None:
    seed(number)
    expected, _ = host(alpha=0.8)(images(), torch.eye(4))
    seed(number)
    mixed, _ = ours(alpha=0.8)(images())
    assert torch.equal(mixed, expected)


@pytest.mark.parametrize(('host', 'ours'), PAIRS)
def test_random_numbers_are_those_of_mmpretrain(host: type, ours: type) -> None:
    states = []
    for augment in (host, ours):
        seed(0)
        augment(alpha=0.8)(images(), torch.eye(4))
        states.append((np.random.random(), torch.rand(()).item()))
    assert states[0] == states[1]


@pytest.mark.parametrize(('host', 'ours'), PAIRS)
@pytest.mark.parametrize('number', range(5))
def test_partner_and_share_give_the_scores_of_mmpretrain(host: type, ours: type, number: int
                                                         ) -> None:
    scores = torch.eye(4)
    seed(number)
    _, expected = host(alpha=0.8)(images(), scores)
    seed(number)
    _, mix = ours(alpha=0.8)(images())
    torch.testing.assert_close(mix.lam * scores + (1 - mix.lam) * scores[mix.partner], expected)


def test_cutmix_minmax_reaches_mmpretrain() -> None:
    seed(0)
    expected, _ = CutMix(alpha=1.0, cutmix_minmax=[0.3, 0.6])(images(), torch.eye(4))
    seed(0)
    mixed, _ = PatchCutMix(alpha=1.0, cutmix_minmax=[0.3, 0.6])(images())
    assert torch.equal(mixed, expected)


@pytest.mark.parametrize('augment', AUGMENTS)
@pytest.mark.parametrize('partner', ['random', 'flip'])
@pytest.mark.parametrize('batch', [1, 3])
def test_odd_batches_can_be_mixed(augment: type, partner: str, batch: int) -> None:
    seed(0)
    mixed, mix = augment(alpha=1.0, partner=partner)(images(batch))
    assert mixed.shape == images(batch).shape
    assert sorted(mix.partner.tolist()) == list(range(batch))


@pytest.mark.parametrize('augment', AUGMENTS)
def test_an_image_that_meets_itself_stays_as_it_is(augment: type) -> None:
    mixed, _ = augment(alpha=1.0)(images(1))
    torch.testing.assert_close(mixed, images(1))


@pytest.mark.parametrize('augment', AUGMENTS)
def test_flip_mixes_with_the_reversed_batch(augment: type) -> None:
    _, mix = augment(alpha=1.0, partner='flip')(images(3))
    assert mix.partner.tolist() == [2, 1, 0]


def test_the_box_holds_the_partner_and_the_rest_the_image() -> None:
    seed(3)
    mixed, mix = PatchCutMix(alpha=1.0)(images())
    y1, y2, x1, x2 = mix.box
    expected = images()
    expected[:, :, y1:y2, x1:x2] = images()[mix.partner, :, y1:y2, x1:x2]
    assert (y2 - y1) * (x2 - x1) > 0 and torch.equal(mixed, expected)


@pytest.mark.parametrize('augment', AUGMENTS)
def test_unknown_partner(augment: type) -> None:
    with pytest.raises(ValueError, match="`partner` must be one of .*'flip'.*got 'next'"):
        augment(alpha=1.0, partner='next')
