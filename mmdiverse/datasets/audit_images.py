"""Images without labels for the audit: a folder, two photographs or the digits."""
import os
import random
import signal
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .digits import Digits

#: Those that MMPretrain looks for in a folder, and others of images that OpenCV reads.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif',
            '.tiff', '.webp', '.jpe', '.dib', '.jp2', '.pbm', '.pnm', '.gif', '.avif')
#: How MMPretrain reads a file if nothing else is said.
LOAD = dict(type='LoadImageFromFile')
#: What Pillow calls the formats of which it notices that a file is truncated.
CHECKED = ('JPEG', 'PNG', 'BMP', 'DIB', 'WEBP', 'TIFF', 'PPM', 'GIF', 'JPEG2000', 'AVIF')
#: At most so many of the files that are skipped are named.
NAMED = 3
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

    An item is a dict with ``inputs``, a tensor ``(C, H, W)``, and ``index``; or an
    :class:`Unreadable`.

    Args:
        names (Sequence[str]): What the images are called.
        images (Sequence[str | np.ndarray]): Paths; or BGR images in uint8, which the pipeline gets
            as files too, so that its loader makes of them what it makes of others.
        pipeline (Sequence[dict]): Transforms of MMPretrain. They start from ``img_path``.
        skipped (Sequence[str]): Names of files that were found and are no images.

    Attributes:
        names (list[str]): What the images are called.
        skipped (list[str]): Names of files that were found and are no images.

    Raises:
        ValueError: If the pipeline has a transform that cannot be built.
    """

    def __init__(self, names: Sequence[str], images: Sequence[str | np.ndarray],
                 pipeline: Sequence[dict], skipped: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.skipped = list(skipped)
        self._images = images
        self._pipeline = _build(pipeline)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any] | Unreadable:
        try:
            inputs = self._read(self._images[index])
        except Exception as error:  # no file, whatever is in it, ends an audit of many
            return Unreadable(index, self.names[index], _explain(error))
        return dict(inputs=inputs, index=index)

    def _read(self, image: str | np.ndarray) -> Tensor:
        if isinstance(image, str):
            check_whole(image)
            return _inputs(self._pipeline(dict(img_path=image)))
        with TemporaryDirectory() as folder:
            return _inputs(self._pipeline(dict(img_path=_write(image, folder), img=image)))


def _build(pipeline: Sequence[dict]) -> Compose:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        try:
            return Compose([TRANSFORMS.build(transform) for transform in pipeline])
        except Exception as error:  # of a class that is not known, or does not take its arguments
            raise ValueError('the test pipeline (`test_dataloader.dataset.pipeline`) cannot be '
                             f'built: {_explain(error)}') from error


def _write(image: np.ndarray, folder: str) -> str:
    path = os.path.join(folder, 'image.png')
    cv2.imwrite(path, image, [cv2.IMWRITE_PNG_COMPRESSION, 1])  # quick
    return path


def _inputs(packed: Any) -> Tensor:
    """The one image that a pipeline gives.

    Raises:
        ValueError: If it gives another thing.
    """
    if packed is None:
        raise ValueError('the test pipeline gives nothing of it, as loaders with '
                         '`ignore_empty=True` do with what they cannot read')
    inputs = packed.get('inputs') if isinstance(packed, dict) else None
    if isinstance(inputs, Tensor) and inputs.dim() == 3:
        return inputs
    if inputs is None:
        got = 'no `inputs`'
    elif isinstance(inputs, Sequence):
        got = 'a list of views of it'
    else:
        got = f'a {type(inputs).__name__}' + (
            f' of shape {tuple(inputs.shape)}' if isinstance(inputs, Tensor) else '')
    raise ValueError('the audit takes one image (C, H, W) of a file, but the test pipeline '
                     f'(`test_dataloader.dataset.pipeline`) gives {got}; end it with '
                     "dict(type='PackInputs'), without several views")


def check_whole(path: str | Path) -> None:
    """Check that a file is not truncated, which OpenCV may fill with grey, and say nothing.

    A file that Pillow does not know passes: what loads it will see.

    Args:
        path (str | Path): Of an image.

    Raises:
        OSError: If a part of it is missing, or it cannot be read.
        SyntaxError: If it is broken in another way.
    """
    with warnings.catch_warnings(), suppress(UnidentifiedImageError, Image.DecompressionBombError):
        warnings.simplefilter('ignore')
        with Image.open(path, formats=CHECKED) as image:
            image.draft(None, (1, 1))  # a JPEG is decoded to an eighth of its size
            image.load()


def reads_files(pipeline: Sequence[dict], load: dict) -> bool:
    """Whether a test pipeline loads images itself, rather than gets them from its data set.

    It is tried on a file. What can read it neither alone nor behind a loader is for files of
    another kind.

    Args:
        pipeline (Sequence[dict]): Transforms of MMPretrain.
        load (dict): The loader that it may lack.

    Raises:
        ValueError: If the pipeline has a transform that cannot be built.
    """
    trial = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    with TemporaryDirectory() as folder:
        path = _write(trial, folder)
        alone, loaded = (
            not isinstance(AuditImages(['trial'], [path], transforms)[0], Unreadable)
            for transforms in (pipeline, [load, *pipeline]))
    return alone or not loaded


def open_images(images: str | Path, pipeline: Sequence[dict], limit: int | None = None,
                fit: Sequence[dict] = (), suffixes: Sequence[str] = SUFFIXES) -> AuditImages:
    """Open the images of an audit.

    Args:
        images (str | Path): A folder, searched with its subfolders; ``'photos'``, crops of two
            photographs; or ``'digits'``, the validation part of ``Digits``.
        pipeline (Sequence[dict]): That of :class:`~mmdiverse.evaluation.model_loading.LoadedModel`.
        limit (int, optional): Take at most so many, evenly spaced. Defaults to all.
        fit (Sequence[dict]): Transforms that photographs or digits pass before. Defaults to none.
        suffixes (Sequence[str]): How names of images in a folder end, in upper or lower case;
            other files are skipped. Defaults to :data:`SUFFIXES`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is a file or holds no images, ``limit`` is below 1, or the pipeline has a
            transform that cannot be built.
        OSError: If a folder cannot be listed.
    """
    if limit is not None and limit < 1:
        raise ValueError(f'`limit` must be at least 1, but got {limit}')
    skipped: list[str] = []
    if images in EMBEDDED:
        fitting = _build(fit)
        found = [(name, fitting(dict(img=image))['img']) for name, image in EMBEDDED[images]()]
    else:
        found, skipped = _find_images(Path(images), tuple(suffixes))
    found = [found[index] for index in evenly_spaced(len(found), limit or len(found))]
    return AuditImages(*zip(*found), pipeline, skipped)


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
    # Messages of Pillow name an address in memory, and those of OpenCV a line of its source.
    if isinstance(error, (UnidentifiedImageError, cv2.error)) or \
            isinstance(error, AssertionError) and str(error).startswith('failed to load image'):
        return 'not an image, or of a format that the loader of the test pipeline does not know'
    reason = getattr(error, 'strerror', None) or str(error)
    return f'{type(error).__name__}: {reason}' if reason else type(error).__name__


def _find_images(folder: Path, suffixes: tuple[str, ...]
                 ) -> tuple[list[tuple[str, str]], list[str]]:
    """Names and paths of the images in a folder, and names of its other files."""
    choices = f'expected a folder or one of {sorted(EMBEDDED)}'
    if not folder.exists():
        raise FileNotFoundError(f'--images: there is no folder {folder}; {choices}')
    if not folder.is_dir():
        raise ValueError(f'--images: {folder} is a file; {choices}')
    found, skipped, seen = [], [], set()
    for root, folders, files in os.walk(folder, onerror=_stop, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:  # by a link to a folder above
            folders.clear()
            continue
        seen.add(place)
        for file in files:
            if file.startswith('.'):  # of the system, left out by MMEngine too
                continue
            path = Path(root, file)
            # A name of bytes that are no UTF-8 could not be printed.
            name = os.fsencode(path.relative_to(folder)).decode(errors='backslashreplace')
            if file.lower().endswith(suffixes):
                found.append((name, str(path)))
            else:
                skipped.append(name)
    skipped.sort()
    if not found:
        others = f'only {name_skipped(skipped)}; ' if skipped else ''
        raise ValueError(f'--images: neither {folder} nor a folder in it holds an image '
                         f'({", ".join(suffixes)}, in upper or lower case); {others}{choices}')
    return sorted(found, key=itemgetter(0)), skipped


def name_skipped(names: Sequence[str]) -> str:
    """Such as ``5 other files (a.txt, b.txt, c.txt and 2 more)``.

    Args:
        names (Sequence[str]): Of at least one file.
    """
    more = f' and {len(names) - NAMED} more' if len(names) > NAMED else ''
    return (f'{len(names)} other file{"s" * (len(names) > 1)} '
            f'({", ".join(names[:NAMED])}{more})')


def _stop(error: OSError) -> None:
    raise error


def _crop_photos() -> list[tuple[str, np.ndarray]]:
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
        crops.append((name, pixels[top:top + height, left:left + width]))
    return crops


def _list_digits() -> list[tuple[str, np.ndarray]]:
    digits = Digits('val')
    return [(f'digit {item["gt_label"]}, number {index}', item['img'])
            for index, item in enumerate(digits)]


EMBEDDED = {'photos': _crop_photos, 'digits': _list_digits}
