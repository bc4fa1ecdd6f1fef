"""The data preprocessor that tells the head how images were mixed."""
from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from mmdiverse.mixing import PatchMixingDataPreprocessor

MIXUP = dict(type='mmdiverse.PatchMixup', alpha=0.8)
CUTMIX = dict(type='mmdiverse.PatchCutMix', alpha=1.0)
SETTINGS = dict(mean=[10.] * 3, std=[2.] * 3, to_rgb=True, num_classes=5)


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(0, 256, (3, 8, 12), generator=generator) for _ in range(4)]
    return dict(inputs=inputs, data_samples=[DataSample().set_gt_label(i) for i in range(4)])


def mixed(number: int = 0, **options: Any) -> dict[str, Any]:
    preprocessor = PatchMixingDataPreprocessor(patch_size=4, **SETTINGS, **options)
    np.random.seed(number)
    torch.manual_seed(number)
    return preprocessor(batch(), training=True)


def field(samples: list[DataSample], name: str) -> Tensor:
    return torch.stack([torch.as_tensor(sample.get(name)).reshape(-1) for sample in samples])


def test_training_images_are_those_of_mmpretrain() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    host = ClsDataPreprocessor(**SETTINGS, batch_augments=dict(augments=augments))
    expected = host(batch(), training=True)['inputs']
    assert torch.equal(mixed(batch_augments=dict(augments=[MIXUP, CUTMIX]))['inputs'], expected)


@pytest.mark.parametrize('number', range(4))
def test_labels_and_shares_give_the_scores_of_mmpretrain(number: int) -> None:
    np.random.seed(number)
    torch.manual_seed(number)
    augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    host = ClsDataPreprocessor(**SETTINGS, batch_augments=dict(augments=augments))
    expected = field(host(batch(), training=True)['data_samples'], 'gt_score')
    samples = mixed(number, batch_augments=dict(augments=[MIXUP, CUTMIX]))['data_samples']
    lam, one_hot = field(samples, 'mix_lam').float(), torch.eye(5)
    label, partner = (field(samples, name)[:, 0] for name in ('gt_label', 'mix_label'))
    torch.testing.assert_close(lam * one_hot[label] + (1 - lam) * one_hot[partner], expected)


def test_every_patch_has_a_share() -> None:
    samples = mixed(batch_augments=dict(augments=CUTMIX))['data_samples']
    shares = field(samples, 'patch_shares')
    assert shares.shape == (4, 6)
    torch.testing.assert_close(shares.mean(1, keepdim=True), field(samples, 'mix_lam').float())


@pytest.mark.parametrize('options', [
    dict(), dict(batch_augments=dict(augments=[MIXUP], probs=[0.]))], ids=['none', 'probs=0'])
def test_images_that_were_not_mixed_are_their_own(options: dict) -> None:
    samples = mixed(**options)['data_samples']
    assert torch.equal(field(samples, 'mix_label'), field(samples, 'gt_label'))
    assert (field(samples, 'mix_lam') == 1).all() and (field(samples, 'patch_shares') == 1).all()


def test_outside_training_it_is_that_of_mmpretrain() -> None:
    ours = PatchMixingDataPreprocessor(patch_size=4, **SETTINGS,
                                       batch_augments=dict(augments=[MIXUP]))(batch())
    theirs = ClsDataPreprocessor(**SETTINGS)(batch())
    assert torch.equal(ours['inputs'], theirs['inputs'])
    assert [sample.keys() for sample in ours['data_samples']] == [['gt_label']] * 4


def test_images_without_labels_pass() -> None:
    preprocessor = PatchMixingDataPreprocessor(patch_size=4)
    assert preprocessor(dict(inputs=batch()['inputs']), training=True)['data_samples'] is None


def test_patches_need_not_be_square() -> None:
    samples = PatchMixingDataPreprocessor(patch_size=(8, 3))(batch(), training=True)['data_samples']
    assert samples[0].patch_shares.shape == (4, )


def test_patches_that_do_not_divide_the_image() -> None:
    with pytest.raises(ValueError, match=r'`data_preprocessor.patch_size` \(5, 5\) does not divide '
                                         'the images of 8 x 12'):
        PatchMixingDataPreprocessor(patch_size=5)(batch(), training=True)


@pytest.mark.parametrize('patch_size', [0, (4, -1), (4, 4, 4)])
def test_bad_patch_size(patch_size: Any) -> None:
    with pytest.raises(ValueError, match='`data_preprocessor.patch_size` must be a positive'):
        PatchMixingDataPreprocessor(patch_size=patch_size)


def test_augments_that_do_not_say_how_they_mixed() -> None:
    augments = [CUTMIX, dict(type='Mixup', alpha=0.8)]
    with pytest.raises(TypeError, match='`model.train_cfg.augments` must be .*but got Mixup'):
        PatchMixingDataPreprocessor(patch_size=4, batch_augments=dict(augments=augments))
