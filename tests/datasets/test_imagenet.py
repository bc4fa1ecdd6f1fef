from pathlib import Path

import pytest
from mmengine.config import Config
from mmpretrain.datasets import ImageNet
from timm.data import ImageNetInfo

from mmdiverse.datasets.imagenet import check_imagenet


def loader(root: Path | str, split: str = 'train', **dataset: object) -> dict:
    return dict(batch_size=2, dataset=dict(type='ImageNet', data_root=str(root), split=split,
                                           **dataset))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ImageNet's folders, without an image."""
    for name in ImageNetInfo('imagenet-1k').label_names():
        (tmp_path / 'train' / name).mkdir(parents=True)
    return tmp_path


def test_a_folder_for_every_class_will_do(root: Path) -> None:
    check_imagenet(loader(root))
    check_imagenet(loader('', split='', data_prefix=str(root / 'train')))
    check_imagenet(loader(root, split='', data_prefix=dict(img_path='train')))


def test_a_folder_that_does_not_exist_is_named_in_full(root: Path, monkeypatch) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(FileNotFoundError) as error:
        check_imagenet(loader('data'))
    assert str(error.value) == (
        f"ImageNet: no folder {root}/data/train. Change `train_dataloader.dataset.data_root` "
        "('data'), or put images there, in one folder for each class")


def test_missing_classes_are_counted_and_the_first_named(root: Path) -> None:
    names = sorted(path.name for path in (root / 'train').iterdir())
    for name in names[1::2]:
        (root / 'train' / name).rmdir()
    with pytest.raises(ValueError) as error:
        check_imagenet(loader(root), 'val_dataloader')
    assert str(error.value) == (
        f'ImageNet: {root}/train should hold 1000 folders, one for each class, but holds 500; 500 '
        f'missing, first {names[1]}, {names[3]}, {names[5]}. Change '
        f'`val_dataloader.dataset.data_root` ({str(root)!r}), or complete the images')


def test_a_folder_that_is_no_class_is_named(root: Path) -> None:
    (root / 'train' / 'more images').mkdir()
    with pytest.raises(ValueError, match='holds 1001; 1 unknown, first more images. Change `train_d'
                       r'ataloader.dataset.data_root` \(.*\), or remove what is no class$'):
        check_imagenet(loader(root))


def test_files_beside_the_folders_do_not_count(root: Path) -> None:
    (root / 'train' / 'readme.txt').touch()
    check_imagenet(loader(root))


def test_own_classes_are_counted(tmp_path: Path) -> None:
    for name in ('cat', 'dog'):
        (tmp_path / 'train' / name).mkdir(parents=True)
    check_imagenet(loader(tmp_path, classes=['cat', 'dog']))
    check_imagenet(loader(tmp_path, metainfo=dict(classes=['cat', 'dog'])))
    with pytest.raises(ValueError, match='should hold 3 folders, .* holds 2. Change'):
        check_imagenet(loader(tmp_path, classes=['cat', 'cow', 'dog']))
    with pytest.raises(ValueError, match='should hold 1 folder, .* holds 2. Change'):
        check_imagenet(loader(tmp_path, classes=['cat']))


def test_mmpretrain_refuses_what_is_refused_here(root: Path) -> None:
    # Else a later MMPretrain would take what we do not.
    next((root / 'train').iterdir()).rmdir()
    with pytest.raises(ValueError, match='holds 999; 1 missing'):
        check_imagenet(loader(root))
    with pytest.raises(AssertionError, match='number of subfolders'):
        ImageNet(data_root=str(root), split='train')


@pytest.mark.parametrize('dataset', [
    dict(type='mmdiverse.Digits'), dict(type='CustomDataset', data_root='nowhere'),
    dict(type='ImageNet', data_root='nowhere', ann_file='list.txt'),
    dict(type='ImageNet', data_root='s3://bucket/imagenet', split='train'),
])
def test_other_data_are_left_to_mmpretrain(dataset: dict) -> None:
    check_imagenet(Config(dict(dataset=dataset)))


def test_annotated_images_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'train.txt').touch()
    check_imagenet(loader(tmp_path))


def test_images_without_labels_need_no_folders_of_classes(tmp_path: Path) -> None:
    (tmp_path / 'test').mkdir()
    check_imagenet(loader(tmp_path, split='test'))
    check_imagenet(loader(tmp_path, split='', data_prefix='test', with_label=False))


@pytest.mark.parametrize('kind', ['mmpretrain.ImageNet', ImageNet])
def test_the_type_may_have_a_scope_or_be_a_class(kind: object, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='no folder'):
        check_imagenet(dict(dataset=dict(type=kind, data_root=str(tmp_path), split='val')))
