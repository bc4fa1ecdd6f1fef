"""A data set of small images that lies in memory as one tensor, on the device that trains."""
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.structures import DataSample
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..registry import DATASETS, TRANSFORMS
from ..spelling import counted
from .batch_transforms import BatchTransform

#: Images that a thread loads at a time.
CHUNK = 256


@DATASETS.register_module()
class InMemoryDataset(Dataset):
    """A labelled data set, loaded once and handed out in whole batches.

    For images so small that loading them one by one takes longer than training on them. All of
    them are loaded at first use, into one uint8 tensor ``(N, C, H, W)`` on a device; from then on
    a batch is taken out by one operation there, and the random transforms treat it as a whole.

    - In the pipeline of ``dataset`` stands what is the same in every epoch: loading and resizing
      to one size. ``PackInputs`` may be left out.
    - In ``transforms`` stands what is random.
    - The data loader needs ``num_workers=0`` and ``persistent_workers=False``, and no collate
      function: MMEngine's own hand the batch on. Data preprocessors take it as it is.

    Samples hold ``gt_label`` and ``sample_idx``, the place in ``dataset``; what else MMPretrain
    would have packed is :meth:`get_data_info`'s to tell.

    Args:
        dataset (dict | Dataset): Any data set of MMPretrain with one class for each image.
        device (str, optional): Where the images are to be. Defaults to the device that MMEngine's
            runner trains on.
        transforms (Sequence[dict | BatchTransform]): Applied to every batch, such as
            ``mmdiverse.BatchRandomCrop``. Defaults to none.

    Raises:
        TypeError: If a transform is not one of batches, or ``dataset`` is no data set.
        ValueError: When it is loaded: if the data set is empty, its pipeline is random, its images
            differ in size or are no uint8, an image has not one class, or all of them need more
            memory than a GPU has free. With the first batch: if workers are to load from a GPU.

    Example:
        >>> train_dataloader = dict(
        ...     batch_size=512, num_workers=0, persistent_workers=False,
        ...     sampler=dict(type='DefaultSampler', shuffle=True),
        ...     dataset=dict(
        ...         type='mmdiverse.InMemoryDataset',
        ...         dataset=dict(type='CIFAR10', data_root='data/cifar10', split='train'),
        ...         transforms=[dict(type='mmdiverse.BatchRandomCrop', crop_size=32, padding=4),
        ...                     dict(type='mmdiverse.BatchRandomFlip', prob=0.5)]))
    """

    def __init__(self, dataset: dict | Dataset, device: str | None = None,
                 transforms: Sequence[dict | BatchTransform] = ()) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not hasattr(self.dataset, 'metainfo'):
            raise TypeError('`dataset` must be a data set of MMPretrain or its config, but got '
                            f'{type(dataset).__name__}')
        self.device = torch.device(device or get_device())
        self.transforms = [TRANSFORMS.build(transform) if isinstance(transform, dict) else transform
                           for transform in transforms]
        for index, transform in enumerate(self.transforms):
            if not isinstance(transform, BatchTransform):
                raise TypeError(
                    f'`transforms[{index}]` must treat a whole batch, as mmdiverse.BatchRandomCrop '
                    f'and mmdiverse.BatchRandomFlip do, but got {type(transform).__name__}; what '
                    'is not random belongs into `dataset.pipeline`')
        self._images: Tensor | None = None
        self._labels: Tensor | None = None

    @property
    def metainfo(self) -> dict[str, Any]:
        """That of ``dataset``."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load all images, if that was not done before."""
        if self._images is None:
            self.dataset.full_init()
            images, labels = _load(self.dataset, self.device)
            self._images, self._labels = images.to(self.device), labels.to(self.device)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """What ``dataset`` knows about an image."""
        return self.dataset.get_data_info(idx)

    def get_gt_labels(self) -> np.ndarray:
        """Classes of all images, shape ``(N,)``."""
        self.full_init()
        return self._labels.cpu().numpy()

    def get_cat_ids(self, idx: int) -> list[int]:
        """Class of an image, in a list."""
        self.full_init()
        return [int(self._labels[idx])]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        batch = self.__getitems__([range(len(self))[idx]])
        return {key: values[0] for key, values in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> '_Batch':
        """A batch: ``inputs``, a tensor ``(B, C, H, W)``, and ``data_samples``, a list."""
        if self.device.type != 'cpu' and get_worker_info() is not None:
            raise ValueError(f'InMemoryDataset: workers cannot load from {self.device}; set '
                             '`num_workers=0` and `persistent_workers=False` in the data loader, '
                             'which has nothing to wait for')
        self.full_init()
        chosen = torch.as_tensor(indices, device=self.device)
        images = self._images.index_select(0, chosen)
        for transform in self.transforms:
            images = transform(images)
        labels = self._labels.index_select(0, chosen).split(1)
        return _Batch(inputs=images, data_samples=list(map(_data_sample, indices, labels)))


class _Batch(dict):
    """A batch that collate functions and the pinning of memory leave as it is."""

    def __missing__(self, key: Any) -> str:
        # What MMEngine's and torch's collate functions look at to see what a batch consists of;
        # texts they hand on.
        if key == 0:
            return 'collated'
        raise KeyError(key)

    def pin_memory(self) -> '_Batch':
        return self


def _data_sample(index: int, label: Tensor) -> DataSample:
    # As MMPretrain rebuilds one that it pickled: four times as fast as its setters, for each image
    # of each batch. A new one each time, because preprocessors and heads write into them, and a
    # batch may hold an image twice.
    sample = DataSample.__new__(DataSample)
    sample.__dict__.update(_metainfo_fields={'sample_idx'}, _data_fields={'gt_label'},
                           sample_idx=index, gt_label=label)
    return sample


def _load(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """All images ``(N, C, H, W)`` and labels ``(N,)``."""
    total = len(dataset)
    if total == 0:
        raise ValueError('InMemoryDataset: `dataset` is empty')
    if random := sorted({type(transform).__name__ for transform in _transforms(dataset)
                         if getattr(transform, '_methods_with_randomness', ())}):
        raise ValueError('InMemoryDataset: `dataset.pipeline` is applied once, for all epochs, but '
                         f'{" and ".join(random)} should be drawn anew in each; put what is random '
                         'into `transforms`, such as mmdiverse.BatchRandomCrop')
    pack = PackInputs()

    def get(index: int) -> tuple[Tensor, Tensor]:
        item = dataset[index]
        item = item if 'inputs' in item else pack(item)
        image, label = item.get('inputs'), item['data_samples'].get('gt_label')
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 3:
            found = f'a {image.dtype} tensor {tuple(image.shape)}' if isinstance(image, Tensor) \
                else type(image).__name__
            raise ValueError('InMemoryDataset: `dataset.pipeline` must give one uint8 image, '
                             f'but {_name(dataset, index)} became {found}; begin with '
                             "dict(type='LoadImageFromFile') where images are files, and leave "
                             'what normalizes to `data_preprocessor`')
        if label is None or len(label) != 1:
            raise ValueError('InMemoryDataset: each image of `dataset` must have one class, but '
                             f'{_name(dataset, index)} has '
                             f'{"none" if label is None else label.tolist()}')
        return image, label

    first, _ = get(0)
    _check_memory(total * first.numel(), device)
    images = torch.empty(total, *first.shape, dtype=torch.uint8)
    labels = torch.empty(total, dtype=torch.int64)

    def load(start: int) -> None:
        for index in range(start, min(start + CHUNK, total)):
            image, label = get(index)
            if image.shape != first.shape:
                sizes = [' x '.join(map(str, found.shape[1:])) for found in (first, image)]
                raise ValueError(
                    f'InMemoryDataset: all images must have one size, but {_name(dataset, 0)} has '
                    f'{sizes[0]} pixels and {_name(dataset, index)} has {sizes[1]}; put '
                    "dict(type='Resize', scale=...), or dict(type='ResizeEdge', scale=...) and "
                    "dict(type='CenterCrop', crop_size=...), into `dataset.pipeline`")
            images[index], labels[index] = image, label[0]

    with ThreadPoolExecutor() as pool:
        starts = range(0, total, CHUNK)
        for _ in track(pool.map(load, starts), f'Loading {counted(total, "image")}',
                       total=len(starts), disable=not is_main_process()):
            pass
    return images, labels


def _transforms(dataset: Any) -> Iterator[Any]:
    """All transforms of a data set and of those that it wraps."""
    wrapped = [dataset.dataset] if hasattr(dataset, 'dataset') else []
    for inner in getattr(dataset, 'datasets', wrapped):
        yield from _transforms(inner)
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', ())


def _name(dataset: Any, index: int) -> str:
    path = dataset.get_data_info(index).get('img_path')
    return f'image {index}' + (f' ({path})' if path else '')


def _check_memory(needed: int, device: torch.device) -> None:
    if device.type == 'cuda':
        free, _ = torch.cuda.mem_get_info(device)
        if needed > free:
            raise ValueError(f'InMemoryDataset: the images need {needed / 2**20:,.0f} MiB, but '
                             f"{device} has {free / 2**20:,.0f} MiB free; set `device='cpu'`, or "
                             'make them smaller in `dataset.pipeline`')
