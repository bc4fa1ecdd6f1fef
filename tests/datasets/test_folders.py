"""Folders that hold no class."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmpretrain.datasets import CustomDataset, ImageNet
from PIL import Image
from torch import nn

from mmdiverse.datasets.folders import (
    check_class_folders,
    check_folders,
    find_empty_folders,
    is_stray,
)
from mmdiverse.hooks.diversity_hook import check_num_classes

STRAY = ['.ipynb_checkpoints', '.git', '__MACOSX', '__pycache__', 'lost+found', '@eaDir']


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with an image each."""
    for name in ('cat', 'dog'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'train' / name / 'a.png')
    return tmp_path


def loader(root: Path, **dataset: object) -> dict:
    return dict(dataset=dict(type='CustomDataset', data_root=str(root), data_prefix='train',
                             **dataset))


def build(root: Path) -> CustomDataset:
    return CustomDataset(data_root=str(root), data_prefix='train', pipeline=[])


def model(num_classes: int) -> nn.Module:
    model = nn.Module()
    model.head = SimpleNamespace(num_classes=num_classes)
    return model


@pytest.mark.parametrize('name', STRAY)
def test_what_is_stray(name: str) -> None:
    assert is_stray(name)


@pytest.mark.parametrize('name', ['cat', '__background__', '_unknown_', 'n01440764', 'no crack'])
def test_what_is_a_class(name: str) -> None:
    assert not is_stray(name)


@pytest.mark.parametrize('name', STRAY)
def test_it_is_refused_before_and_after_the_data_set_is_built(name: str, root: Path) -> None:
    check_folders(loader(root), 'train_dataloader')
    check_class_folders(build(root), 'train_dataloader')
    # With an image, as Jupyter and macOS leave them.
    (root / 'train' / name).mkdir()
    (root / 'train' / name / 'a.png').write_bytes((root / 'train' / 'cat' / 'a.png').read_bytes())
    message = (rf'`val_dataloader.dataset`: every folder in {root}/train/? is taken for a class, '
               rf"but '{name}' is none; remove it$".replace('+', r'\+'))
    with pytest.raises(ValueError, match=message):
        check_folders(loader(root), 'val_dataloader')
    with pytest.raises(ValueError, match=message):
        check_class_folders(build(root), 'val_dataloader')
    for classes in (2, 3):  # though the head may have been made to fit
        with pytest.raises(ValueError, match="taken for a class, but .* is none; remove it"):
            check_num_classes(model(classes), SimpleNamespace(dataset=build(root)))


def test_several_are_named_together(root: Path) -> None:
    for name in ('.b', '.a'):
        (root / 'train' / name).mkdir()
    with pytest.raises(ValueError, match="but '.a', '.b' are none; remove them$"):
        check_folders(loader(root), 'train_dataloader')


def test_data_sets_around_others(root: Path) -> None:
    (root / 'train' / '.a').mkdir()
    inner = loader(root)['dataset']
    for config in (dict(type='RepeatDataset', times=2, dataset=inner),
                   dict(type='ConcatDataset', datasets=[inner]),
                   dict(type='mmdiverse.InMemoryDataset', dataset=inner)):
        with pytest.raises(ValueError, match="'.a' is none"):
            check_folders(dict(dataset=config), 'train_dataloader')
    for built in (RepeatDataset(build(root), 2), ConcatDataset([build(root)])):
        with pytest.raises(ValueError, match="'.a' is none"):
            check_class_folders(built, 'train_dataloader')


def test_where_folders_are_no_classes_they_may_be_there(root: Path) -> None:
    (root / 'train' / '.a').mkdir()
    (root / 'list.txt').write_text('cat/a.png 0\n')
    for options in (dict(with_label=False), dict(ann_file='list.txt')):
        check_folders(loader(root, **options), 'train_dataloader')
        check_class_folders(CustomDataset(data_root=str(root), data_prefix='train', pipeline=[],
                                          **options), 'train_dataloader')
    check_folders(dict(dataset=dict(type='mmdiverse.Digits')), 'train_dataloader')
    check_folders(loader(root / 'nowhere'), 'train_dataloader')


def test_imagenet_and_prefixes_in_a_dict(root: Path) -> None:
    (root / 'train' / '.a').mkdir()
    for dataset in (dict(type='ImageNet', data_root=str(root), split='train'),
                    dict(type=ImageNet, data_prefix=str(root / 'train')),
                    dict(type='CustomDataset', data_prefix=dict(img_path=str(root / 'train')))):
        with pytest.raises(ValueError, match="'.a' is none"):
            check_folders(dict(dataset=dataset), 'train_dataloader')


def test_a_folder_without_images_is_named_in_place_of_another_number_of_classes(root: Path) -> None:
    (root / 'train' / 'notes' / 'deeper').mkdir(parents=True)
    (root / 'train' / 'notes' / 'deeper' / 'a.txt').touch()
    dataset = build(root)
    assert find_empty_folders(RepeatDataset(dataset, 2)) == ['notes']
    check_num_classes(model(3), SimpleNamespace(dataset=dataset))  # a class may be empty
    with pytest.raises(ValueError, match=r'have 3 classes, but the head has 2. There is no image '
                       r"in the folders \['notes'\], which are taken for classes; remove"):
        check_num_classes(model(2), SimpleNamespace(dataset=dataset))


def test_one_class_is_no_classes(root: Path) -> None:
    (root / 'train' / 'dog' / 'a.png').unlink()
    (root / 'train' / 'dog').rmdir()
    with pytest.raises(ValueError, match='have 1 class, but the head has 2; set `model.head.num_cla'
                       'sses` and `data_preprocessor.num_classes` to 1'):
        check_num_classes(model(2), SimpleNamespace(dataset=build(root)))
