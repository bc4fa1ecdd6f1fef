"""Folders that hold no class, though MMPretrain takes every folder of a data set for one."""
from collections.abc import Iterable, Iterator, Mapping
from os.path import expanduser, join
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..config import type_name

#: Data sets of MMPretrain whose classes are folders.
FOLDER_DATASETS = ('CustomDataset', 'ImageNet')
#: What systems and tools leave in folders, beside what is hidden.
LEFT_BEHIND = {'__MACOSX', '__pycache__', 'lost+found', '@eaDir', '$RECYCLE.BIN',
               'System Volume Information'}


def find_image_folder(dataset: Mapping[str, Any]) -> Path | None:
    """Where the images of a data set are, below the folders of their classes if they have labels.

    Args:
        dataset (Mapping): Config of one of :data:`FOLDER_DATASETS`.

    Returns:
        Path, optional: None for annotated and for remote ones.
    """
    root, split = dataset.get('data_root') or '', dataset.get('split') or ''
    prefix = dataset.get('data_prefix') or split
    prefix = prefix.get('img_path', '') if isinstance(prefix, Mapping) else prefix
    path = join(root, expanduser(prefix))
    annotated = dataset.get('ann_file') or Path(root, 'meta', f'{split}.txt').is_file()
    return None if annotated or '://' in path else Path(path).absolute()


def has_labels(dataset: Mapping[str, Any]) -> bool:
    """Whether folders stand for classes.

    Args:
        dataset (Mapping): Config of one of :data:`FOLDER_DATASETS`.
    """
    return dataset.get('with_label', True) and dataset.get('split') != 'test'


def check_folders(dataloader: Mapping[str, Any], key: str) -> None:
    """Check, before it is built, that a data set does not take what is no class for one.

    Labels count folders in the order of their names. A hidden one, which comes first, shifts all
    others, in training or in validation alone.

    Args:
        dataloader (Mapping): Config of a data loader.
        key (str): Its name in the config, such as ``train_dataloader``.

    Raises:
        ValueError: If there are such folders; the message names them.
    """
    for dataset in _configs(dataloader.get('dataset')):
        if type_name(dataset) not in FOLDER_DATASETS or not has_labels(dataset):
            continue
        folder = find_image_folder(dataset)
        if folder is not None and folder.is_dir():
            _refuse(folder, (path.name for path in folder.iterdir() if path.is_dir()), key)


def check_class_folders(dataset: Dataset, key: str) -> None:
    """Check the same of a data set that is built.

    Args:
        dataset (Dataset): May be one around others.
        key (str): The data loader's name in the config.

    Raises:
        ValueError: As of :func:`check_folders`.
    """
    for inner in _datasets(dataset):
        _refuse(getattr(inner, 'img_prefix', ''), getattr(inner, 'folder_to_idx', None) or (), key)


def find_empty_folders(dataset: Dataset) -> list[str]:
    """The folders of classes in which there is no image.

    Args:
        dataset (Dataset): May be one around others.

    Returns:
        list[str]: Their names; none of data that are not in local folders.
    """
    empty = []
    for inner in _datasets(dataset):
        folder = Path(getattr(inner, 'img_prefix', None) or '')
        for name in getattr(inner, 'folder_to_idx', None) or ():
            if (folder / name).is_dir() and not any(
                    inner.is_valid_file(path.name) for path in (folder / name).rglob('*')):
                empty.append(name)
    return empty


def is_stray(name: str) -> bool:
    """Whether a folder of this name holds no class: it is hidden, or a system made it.

    Args:
        name (str): Of the folder, without its path.
    """
    return name.startswith('.') or name in LEFT_BEHIND


def _refuse(folder: Path | str, names: Iterable[str], key: str) -> None:
    stray = sorted(filter(is_stray, names))
    if stray:
        listed = ', '.join(map(repr, stray))
        raise ValueError(
            f'`{key}.dataset`: every folder in {folder} is taken for a class, but {listed} '
            f'{"is none; remove it" if len(stray) == 1 else "are none; remove them"}')


def _configs(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """The config of a data set and of those that it is put around."""
    if isinstance(dataset, Mapping):
        yield dataset
        for inner in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
            yield from _configs(inner)


def _datasets(dataset: Any) -> Iterator[Dataset]:
    """A data set and those that it is put around."""
    if dataset is not None:
        yield dataset
        others = getattr(dataset, 'datasets', None) or ()
        for inner in (getattr(dataset, 'dataset', None), *others):
            yield from _datasets(inner)
