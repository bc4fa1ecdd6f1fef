"""Images without labels for the audit: a folder, two photographs or the digits."""
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from PIL import UnidentifiedImageError
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset

from .digits import Digits

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')
NUM_CROPS = 64
SMALLEST_CROP = 160


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read.

    Attributes:
        index (int): Its place in the data set.
        name (str): Its path in the folder.
        reason (str): What is wrong with it.
    """

    index: int
    name: str
    reason: str


class AuditImages(Dataset):
    """Images behind a pipeline; one that cannot be read is named instead.

    An item is a dict with ``inputs``, a uint8 tensor, and ``index``; or an :class:`Unreadable`.

    Args:
        names (Sequence[str]): What the images are called.
        images (Sequence[dict]): What the pipeline gets of each: ``img_path`` or ``img``.
        pipeline (Sequence[dict]): Transforms of MMPretrain.
    """

    def __init__(self, names: Sequence[str], images: Sequence[dict],
                 pipeline: Sequence[dict]) -> None:
        self.names = list(names)
        self._images = images
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            self._pipeline = Compose([TRANSFORMS.build(transform) for transform in pipeline])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any] | Unreadable:
        try:
            inputs = self._pipeline(dict(self._images[index]))['inputs']
        except Exception as error:  # no file, whatever is in it, ends an audit of many
            return Unreadable(index, self.names[index], _explain(error))
        return dict(inputs=inputs, index=index)


def open_images(images: str | Path, pipeline: Sequence[dict],
                limit: int | None = None) -> AuditImages:
    """Open the images of an audit.

    Args:
        images (str | Path): A folder, searched with its subfolders; ``'photos'``, crops of two
            photographs; or ``'digits'``, the validation part of ``Digits``.
        pipeline (Sequence[dict]): That of :class:`~mmdiverse.evaluation.model_loading.LoadedModel`.
        limit (int, optional): Take at most so many, evenly spaced. Defaults to all.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is a file or holds no images, or ``limit`` is below 1.
        OSError: If a folder cannot be listed.
    """
    if limit is not None and limit < 1:
        raise ValueError(f'`limit` must be at least 1, but got {limit}')
    if images in EMBEDDED:
        found = EMBEDDED[images]()
        pipeline = [transform for transform in pipeline if transform['type'] != 'LoadImageFromFile']
    else:
        found = _find_images(Path(images))
    found = [found[index] for index in evenly_spaced(len(found), limit or len(found))]
    return AuditImages(*zip(*found), pipeline)


def evenly_spaced(total: int, count: int) -> list[int]:
    """At most so many of the indices below a total, evenly spaced."""
    count = min(count, total)
    return [index * total // count for index in range(count)]


def build_loader(dataset: AuditImages, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Load images in their order.

    Args:
        dataset (AuditImages): The images.
        batch_size (int): How many are tried for each batch.
        num_workers (int): Processes that load; they leave Ctrl-C to the main one. Defaults to 0.

    Returns:
        DataLoader: Its batches are dicts of ``inputs``, what a data preprocessor takes: a tensor
        ``(B, C, H, W)``, or a list where sizes differ or no image could be read; ``indices``, where
        in the data set they are; and ``unreadable``, a list of :class:`Unreadable`.
    """
    return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=_collate,
                      worker_init_fn=_start_worker)


def _collate(items: list[dict[str, Any] | Unreadable]) -> dict[str, Any]:
    read = [item for item in items if isinstance(item, dict)]
    inputs = [item['inputs'] for item in read]
    if len({image.shape for image in inputs}) == 1:
        inputs = torch.stack(inputs)
    return dict(inputs=inputs, indices=[item['index'] for item in read],
                unreadable=[item for item in items if isinstance(item, Unreadable)])


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)  # whose threads do not survive the fork


def _explain(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own message names an address in memory
        return 'not an image, or of a format that Pillow does not know'
    reason = getattr(error, 'strerror', None) or str(error)
    return f'{type(error).__name__}: {reason}' if reason else type(error).__name__


def _find_images(folder: Path) -> list[tuple[str, dict]]:
    choices = f'expected a folder or one of {sorted(EMBEDDED)}'
    if not folder.exists():
        raise FileNotFoundError(f'--images: there is no folder {folder}; {choices}')
    if not folder.is_dir():
        raise ValueError(f'--images: {folder} is a file; {choices}')
    found, seen = [], set()
    for root, folders, files in os.walk(folder, onerror=_stop, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:  # by a link to a folder above
            folders.clear()
            continue
        seen.add(place)
        for path in (Path(root, file) for file in files):
            if path.suffix.lower() in SUFFIXES:
                # A name of bytes that are no UTF-8 could not be printed.
                name = os.fsencode(path.relative_to(folder)).decode(errors='backslashreplace')
                found.append((name, dict(img_path=str(path))))
    if not found:
        raise ValueError(f'--images: neither {folder} nor a folder in it holds an image '
                         f'({", ".join(SUFFIXES)}, in upper or lower case); {choices}')
    return sorted(found, key=itemgetter(0))


def _stop(error: OSError) -> None:
    raise error


def _crop_photos() -> list[tuple[str, dict]]:
    photos = load_sample_images()
    choose = random.Random(0)
    crops = []
    for i in range(NUM_CROPS):
        photo = i % len(photos.images)
        pixels = photos.images[photo][..., ::-1]  # to BGR
        height, width = (choose.randint(SMALLEST_CROP, side) for side in pixels.shape[:2])
        top = choose.randint(0, pixels.shape[0] - height)
        left = choose.randint(0, pixels.shape[1] - width)
        name = f'{Path(photos.filenames[photo]).name} {width}x{height}+{left}+{top}'
        crops.append((name, dict(img=pixels[top:top + height, left:left + width])))
    return crops


def _list_digits() -> list[tuple[str, dict]]:
    digits = Digits('val')
    return [(f'digit {item["gt_label"]}, number {index}', dict(img=item['img']))
            for index, item in enumerate(digits)]


EMBEDDED = {'photos': _crop_photos, 'digits': _list_digits}
