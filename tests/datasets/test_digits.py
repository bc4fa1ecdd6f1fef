import numpy as np
import pytest
from mmpretrain.registry import DATASETS
from sklearn.datasets import load_digits

from mmdiverse.datasets import Digits


def test_type_resolves_from_mmpretrain() -> None:
    assert isinstance(DATASETS.build(dict(type='mmdiverse.Digits', split='val')), Digits)


def test_splits_are_disjoint_stratified_and_whole() -> None:
    train, val = Digits('train'), Digits('val')
    assert (len(train), len(val)) == (1437, 360)
    labels = np.bincount([*train.get_gt_labels(), *val.get_gt_labels()])
    assert (labels == np.bincount(load_digits().target)).all()
    assert np.bincount(val.get_gt_labels()).min() >= 34


def test_images_are_the_digits_enlarged() -> None:
    item = Digits('train', img_size=32)[0]
    assert item['img'].shape == (32, 32, 3) and item['img'].dtype == np.uint8
    assert (item['img'][..., 0] == item['img'][..., 2]).all()
    small = Digits('train', img_size=8)[0]['img'][..., 0]
    originals = (load_digits().images * (255 / 16)).astype(np.uint8)
    assert (originals == small).all((1, 2)).any()


def test_classes_are_known() -> None:
    assert Digits('val').metainfo['classes'] == tuple('0123456789')


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="`split` must be one of.*'test'"):
        Digits('test')


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match='`img_size` must be at least 8'):
        Digits('train', img_size=4)
