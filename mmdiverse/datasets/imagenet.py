"""Whether ImageNet lies where a config looks for it."""
import os
from collections.abc import Mapping
from typing import Any

from ..config import type_name
from ..spelling import counted
from .folders import find_image_folder, has_labels

CLASSES = 1000


def check_imagenet(dataloader: Mapping[str, Any], key: str | None = None) -> None:
    """Check that MMPretrain will find a folder for every class of its ``ImageNet``.

    MMPretrain stops where one is missing too, but does not say where it looked, and looks for the
    images of validation only when it has found those of training. Other data sets, annotated ones
    and remote ones are left to it.

    Args:
        dataloader (Mapping): Config of a data loader.
        key (str, optional): Its name in the config. Defaults to that of the split, such as
            ``train_dataloader``.

    Raises:
        FileNotFoundError: If the folder of the split does not exist.
        ValueError: If it holds more or fewer folders than there are classes.
    """
    dataset = dataloader['dataset']
    if type_name(dataset) != 'ImageNet':
        return
    folder = find_image_folder(dataset)
    if folder is None:
        return
    key = key or f'{dataset.get("split") or ""}_dataloader'
    change = f'Change `{key}.dataset.data_root` ({dataset.get("data_root") or ""!r})'
    if not folder.is_dir():
        raise FileNotFoundError(f'ImageNet: no folder {folder}. {change}, or put images there, in '
                                'one folder for each class')
    classes = dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes')
    if not has_labels(dataset) or isinstance(classes, str):  # a file, which MMPretrain reads
        return
    found = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    expected = CLASSES if classes is None else len(classes)
    if len(found) != expected:
        differences = _differences(found) if classes is None else ''
        mend = 'complete the images' if len(found) < expected else 'remove what is no class'
        raise ValueError(f'ImageNet: {folder} should hold {counted(expected, "folder")}, one for '
                         f'each class, but holds {len(found)}{differences}. {change}, or {mend}')


def _differences(found: set[str]) -> str:
    from timm.data import ImageNetInfo  # seconds, which a launch that succeeds need not wait for

    known = ImageNetInfo('imagenet-1k').label_names()
    named = {'missing': [name for name in known if name not in found],
             'unknown': sorted(found - {*known})}
    return ''.join(f'; {len(names)} {what}, first {", ".join(names[:3])}'
                   for what, names in named.items() if names)
