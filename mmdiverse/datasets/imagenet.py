"""Whether ImageNet lies where a config looks for it."""
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import type_name

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
    root, split = dataset.get('data_root') or '', dataset.get('split') or ''
    prefix = dataset.get('data_prefix') or split
    prefix = prefix.get('img_path', '') if isinstance(prefix, Mapping) else prefix
    path = os.path.join(root, os.path.expanduser(prefix))
    annotated = dataset.get('ann_file') or Path(root, 'meta', f'{split}.txt').is_file()
    if annotated or '://' in path:
        return
    folder = Path(path).absolute()
    change = f'Change `{key or f"{split}_dataloader"}.dataset.data_root` ({root!r})'
    if not folder.is_dir():
        raise FileNotFoundError(f'ImageNet: no folder {folder}. {change}, or put images there, in '
                                'one folder for each class')
    classes = dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes')
    labelled = dataset.get('with_label', True) and split != 'test'
    if not labelled or isinstance(classes, str):  # a file, which MMPretrain reads
        return
    found = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    expected = CLASSES if classes is None else len(classes)
    if len(found) != expected:
        differences = _differences(found) if classes is None else ''
        raise ValueError(f'ImageNet: {folder} should hold {expected} folders, one for each class, '
                         f'but holds {len(found)}{differences}. {change}, or complete the images')


def _differences(found: set[str]) -> str:
    from timm.data import ImageNetInfo  # seconds, which a launch that succeeds need not wait for

    known = ImageNetInfo('imagenet-1k').label_names()
    named = {'missing': [name for name in known if name not in found],
             'unknown': sorted(found - {*known})}
    return ''.join(f'; {len(names)} {what}, first {", ".join(names[:3])}'
                   for what, names in named.items() if names)
