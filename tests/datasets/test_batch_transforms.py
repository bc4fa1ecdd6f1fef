from itertools import product

import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets import RandomCrop
from mmpretrain.registry import TRANSFORMS
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from mmdiverse.datasets import BatchRandomCrop, BatchRandomFlip
from mmdiverse.datasets.batch_transforms import BatchTransform, crop, pad

HEIGHT, WIDTH = 4, 5
DRAWS = 20_000


@pytest.fixture
def image() -> np.ndarray:
    """Height, width and channels, of values that tell the pixels apart."""
    return np.arange(1, 1 + HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)


def as_batch(image: np.ndarray, count: int) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).repeat(count, 1, 1, 1)


def as_image(images: Tensor, index: int) -> np.ndarray:
    return images[index].permute(1, 2, 0).numpy()


def is_random(*counts: np.ndarray) -> bool:
    """Whether counts are those of outcomes that are equally likely."""
    return all(chisquare(count.ravel()).pvalue > 1e-3 for count in counts)


def are_independent(outcomes: np.ndarray) -> bool:
    """Whether outcomes of neighbours in a batch have nothing to do with each other."""
    pairs = np.zeros((outcomes.max() + 1, ) * 2)
    np.add.at(pairs, (outcomes[:-1], outcomes[1:]), 1)
    return chi2_contingency(pairs).pvalue > 1e-3


@pytest.mark.parametrize('transform', [
    dict(type='mmdiverse.BatchRandomCrop', crop_size=2),
    dict(type='mmdiverse.BatchRandomFlip', prob=0.5)], ids=['crop', 'flip'])
def test_types_resolve_from_mmpretrain(transform: dict) -> None:
    assert isinstance(TRANSFORMS.build(transform), BatchTransform)


# Crop

@pytest.mark.parametrize('options', [
    dict(crop_size=3),
    dict(crop_size=4, padding=2),
    dict(crop_size=(4, 3), padding=(1, 2), pad_val=(7, 8, 9)),
    dict(crop_size=(2, 6), padding=(0, 1, 2, 3), pad_val=(7, 8, 9)),
    dict(crop_size=(HEIGHT, WIDTH)),
], ids=str)
def test_every_window_is_mmpretrains(options, image, monkeypatch) -> None:
    host, batched = RandomCrop(**options), BatchRandomCrop(**options)
    left, top, right, bottom = batched.padding
    height, width = batched.crop_size
    places = (top + HEIGHT + bottom - height + 1, left + WIDTH + right - width + 1)
    offsets = list(product(*map(range, places)))
    drawn = list(zip(places, torch.tensor(offsets).T))

    def draw(places: int, size: tuple[int, ...], device: torch.device) -> Tensor:
        expected, values = drawn.pop(0)
        assert (places, size) == (expected, (len(offsets), ))
        return values

    monkeypatch.setattr(torch, 'randint', draw)
    cropped = batched(as_batch(image, len(offsets)))
    for index, (row, column) in enumerate(offsets):
        window = row, column, height, width
        monkeypatch.setattr(host, 'rand_crop_params', lambda _, window=window: window)
        expected = host.transform(dict(img=image))['img']
        assert np.array_equal(as_image(cropped, index), expected)


@pytest.mark.parametrize('mode', ['constant', 'edge', 'reflect', 'symmetric'])
def test_padding_is_that_of_mmcv(mode: str, image) -> None:
    padding = (2, 1, 3, 2)
    padded = pad(as_batch(image, 2), padding, (7, 8, 9), mode)
    expected = mmcv.impad(image, padding=padding, pad_val=(7, 8, 9), padding_mode=mode)
    assert np.array_equal(as_image(padded, 1), expected)
    assert padded.dtype == torch.uint8


def test_the_mode_of_padding_is_used(image) -> None:
    one = BatchRandomCrop((6, 7), padding=1, padding_mode='edge')(as_batch(image, 1))
    assert torch.equal(one, pad(as_batch(image, 1), (1, 1, 1, 1), mode='edge'))


def test_one_value_pads_all_channels(image) -> None:
    padded = BatchRandomCrop((6, 7), padding=1, pad_val=9)(as_batch(image, 1))
    assert (padded[0, :, 0] == 9).all()


def test_windows_are_cut_out_of_their_own_images() -> None:
    images = torch.arange(3 * 2 * 4 * 4).view(3, 2, 4, 4)
    cut = crop(images, torch.tensor([0, 2, 1]), torch.tensor([1, 0, 2]), (2, 2))
    assert torch.equal(cut[1], images[1, :, 2:4, :2])
    assert torch.equal(cut[2], images[2, :, 1:3, 2:])


@pytest.fixture(scope='module')
def offsets() -> np.ndarray:
    """Row and column where windows of a large batch begin, shape ``(DRAWS, 2)``."""
    pixels = torch.arange(5 * 4, dtype=torch.uint8).view(1, 1, 5, 4)
    torch.manual_seed(0)
    corners = BatchRandomCrop((3, 2))(pixels.repeat(DRAWS, 1, 1, 1))[:, 0, 0, 0]
    return np.stack(np.divmod(corners.numpy(), 4), axis=1)


def test_all_windows_are_equally_likely(offsets) -> None:
    counts = np.zeros((3, 3))
    np.add.at(counts, (*offsets.T, ), 1)
    assert is_random(counts)


def test_images_are_cropped_independently(offsets) -> None:
    assert are_independent(offsets[:, 0] * 3 + offsets[:, 1])


@pytest.mark.parametrize(('options', 'message'), [
    (dict(crop_size=0), '`crop_size` must be a whole number from 1.*got 0'),
    (dict(crop_size=(1, 2, 3)), '`crop_size`.*or 2 of them.*1, 2, 3'),
    (dict(crop_size=2, padding=-1), '`padding` must be a whole number from 0.*2 or 4 of them'),
    (dict(crop_size=2, pad_val=256), '`pad_val` must be a whole number from 0 to 255.*got 256'),
    (dict(crop_size=2, padding_mode='wrap'), "`padding_mode` must be one of.*'wrap'"),
], ids=str)
def test_arguments_of_crop_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchRandomCrop(**options)


def test_a_window_larger_than_the_images_is_refused(image) -> None:
    with pytest.raises(ValueError, match=r'`crop_size` \(7, 7\) must fit.*are \(6, 7\) pixels'):
        BatchRandomCrop(7, padding=1)(as_batch(image, 2))


def test_a_colour_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r'`pad_val` \(1, 2, 3\) must be one number.*1 channels'):
        BatchRandomCrop(2, padding=1, pad_val=(1, 2, 3))(torch.zeros(2, 1, 4, 4))


# Flip

@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
@pytest.mark.parametrize('flipped', [True, False])
def test_every_flip_is_that_of_mmcv(direction: str, flipped: bool, image, monkeypatch) -> None:
    host, batched = (kind(0.5, direction) for kind in (RandomFlip, BatchRandomFlip))
    monkeypatch.setattr(host, '_choose_direction', lambda: direction if flipped else None)
    monkeypatch.setattr(torch, 'rand', lambda *_, **__: torch.tensor(
        [0.7, 0.3 if flipped else 0.5, 0.7]))
    images = batched(as_batch(image, 3))
    assert np.array_equal(as_image(images, 1), host.transform(dict(img=image))['img'])
    assert torch.equal(images[::2], as_batch(image, 2))


@pytest.fixture(scope='module')
def flips() -> np.ndarray:
    """Which images of a large batch are flipped with a probability of 0.3."""
    torch.manual_seed(0)
    pixels = torch.arange(2, dtype=torch.uint8).view(1, 1, 1, 2).repeat(DRAWS, 1, 1, 1)
    return BatchRandomFlip(0.3)(pixels)[:, 0, 0, 0].numpy()


def test_flips_are_as_likely_as_asked_for(flips) -> None:
    expected = [0.7 * DRAWS, 0.3 * DRAWS]
    assert chisquare(np.bincount(flips), expected).pvalue > 1e-3


def test_images_are_flipped_independently(flips) -> None:
    assert are_independent(flips)


@pytest.mark.parametrize('prob', [0, 1])
def test_what_is_sure_happens_to_all(prob: int, image) -> None:
    images = as_batch(image, 1000)
    assert torch.equal(BatchRandomFlip(prob)(images), images.flip(3) if prob else images)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(prob=1.5), r'`prob` must be a number in \[0, 1\], but got 1.5'),
    (dict(prob=[0.5]), r'`prob` must be a number in \[0, 1\], but got \[0.5\]'),
    (dict(prob=0.5, direction='left'), "`direction` must be one of.*'left'"),
], ids=str)
def test_arguments_of_flip_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchRandomFlip(**options)


# Both

@pytest.mark.parametrize('transform', [BatchRandomCrop(3), BatchRandomFlip(0.5)],
                         ids=['crop', 'flip'])
def test_draws_are_of_the_global_generator(transform: BatchTransform, image) -> None:
    images = as_batch(image, 20)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        np.random.seed(len(drawn))
        drawn.append(transform(images))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize('transform', [BatchRandomCrop(3, padding=1), BatchRandomFlip(1)],
                         ids=['crop', 'flip'])
def test_the_batch_that_came_in_stays(transform: BatchTransform, image) -> None:
    images = as_batch(image, 4)
    transform(images)
    assert torch.equal(images, as_batch(image, 4))
