"""How many images a second train from memory, from files, and where neither would hold them up."""
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain, islice, repeat
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from ..config import plain_twin, type_name
from .measurement import Result, quartiles, time_call

IN_MEMORY = 'mmdiverse.InMemoryDataset'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
#: What is measured: training, its data alone, and the model alone, on a batch that lies there.
ARMS = ('fast step', 'ordinary step', 'fast data', 'ordinary data', 'model')
#: Batches before those that count; with workers, as many more as they load ahead.
WARM_UP = 3


def ordinary_pipeline(cfg: Config) -> Config:
    """A copy of a config that loads every image anew, by transforms of MMPretrain.

    In place of each :class:`~mmdiverse.datasets.InMemoryDataset` stands the data set in it, whose
    pipeline goes on with ``RandomCrop``, ``RandomFlip`` and ``PackInputs`` for the batched ones. It
    gives the same images, but for the random numbers.

    Args:
        cfg (Config): With such a data set in ``train_dataloader`` and maybe in the others.

    Raises:
        ValueError: If that of ``train_dataloader`` is another, or a transform has no counterpart.
    """
    cfg = deepcopy(cfg)
    loaders = [cfg[key] for key in LOADERS if cfg.get(key)]
    if not loaders or type_name(cfg.train_dataloader.dataset) != IN_MEMORY:
        raise ValueError(f'`train_dataloader.dataset` must be of type {IN_MEMORY}, but got '
                         f'{type_name(cfg.train_dataloader.dataset) if loaders else None}')
    for loader in loaders:
        if type_name(loader.dataset) == IN_MEMORY:
            random = [_counterpart(transform) for transform in loader.dataset.get('transforms', ())]
            loader.dataset = loader.dataset.dataset
            for dataset in _with_pipeline(loader.dataset):
                constant = [transform for transform in dataset.get('pipeline', ())
                            if type_name(transform) != 'PackInputs']
                dataset.pipeline = [*constant, *random, dict(type='PackInputs')]
    return cfg


def _with_pipeline(dataset: ConfigDict) -> list[ConfigDict]:
    """The data sets that wrappers hold at last."""
    wrapped = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    return [inner for each in wrapped for inner in _with_pipeline(each)] or [dataset]


def _counterpart(transform: ConfigDict) -> dict[str, Any]:
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in transform.items() if key != 'type'}
    kind = type_name(transform)
    if kind == 'mmdiverse.BatchRandomFlip':
        return dict(options, type='RandomFlip', prob=float(options['prob']))
    mode = options.pop('padding_mode', 'constant')
    if kind == 'mmdiverse.BatchRandomCrop' and mode == 'constant':
        colour = options.get('pad_val', 0)
        return dict(options, type='RandomCrop',
                    pad_val=colour if isinstance(colour, tuple) else (colour, ) * 3)
    raise ValueError('`transforms`: mmdiverse.BatchRandomCrop with constant padding and '
                     'mmdiverse.BatchRandomFlip have counterparts in MMPretrain, but got '
                     f'{dict(transform)}')


class DataPaths:
    """Trains a model on images from memory and on the same from files, in one process.

    The model is that of the config without what diversifies it, for which data would have more
    time. A step ends as in MMEngine's runner, which reads the loss.

    Args:
        cfg (Config): With an :class:`~mmdiverse.datasets.InMemoryDataset` to train on.
        workers (int): Processes that load the ordinary data. Defaults to 0.
        batch_size (int, optional): Defaults to that of the config.
        device (str): Defaults to ``'cpu'``.

    Attributes:
        batch_size (int): Images of a step.

    Raises:
        ValueError: As :func:`ordinary_pipeline`.
    """

    def __init__(self, cfg: Config, workers: int = 0, batch_size: int | None = None,
                 device: str = 'cpu') -> None:
        self.device = torch.device(device)
        init_default_scope('mmpretrain')
        if not MMLogger.check_instance_created('data_path'):
            MMLogger.get_instance('data_path', log_level='WARNING')
        cfg = plain_twin(cfg)
        fast, ordinary = cfg.train_dataloader, ordinary_pipeline(cfg).train_dataloader
        self.batch_size = batch_size or fast.batch_size
        fast.dataset.device = device
        # The rest as MMPretrain's tools/train.py sets it.
        ordinary.setdefault('collate_fn', dict(type='default_collate'))
        ordinary.update(num_workers=workers, pin_memory=self.device.type == 'cuda')
        self._loaders = {}
        for name, loader in (('fast', fast), ('ordinary', ordinary)):
            # Workers of an arm must not load while another one is measured.
            loader.update(batch_size=self.batch_size, persistent_workers=False)
            self._loaders[name] = Runner.build_dataloader(loader, seed=0)
        torch.manual_seed(0)
        if cfg.get('data_preprocessor'):
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        self._model = MODELS.build(cfg.model)
        self._model.init_weights()
        self._model.to(self.device).train()
        self._optim_wrapper = build_optim_wrapper(self._model, cfg.optim_wrapper)
        self._batch = self._prepare(next(iter(self._loaders['fast'])))
        self._warm_up = {'fast': WARM_UP, 'model': WARM_UP, 'ordinary': WARM_UP + workers *
                         (self._loaders['ordinary'].prefetch_factor or 0)}

    def _prepare(self, batch: dict) -> dict:
        return self._model.data_preprocessor(batch, True)

    def _step(self, batch: dict) -> None:
        self._model.train_step(batch, self._optim_wrapper)['loss'].item()

    def _model_step(self, batch: dict) -> None:
        # As train_step of the model, of what its data preprocessor returned.
        with self._optim_wrapper.optim_context(self._model):
            losses = self._model(**batch, mode='loss')
        loss, _ = self._model.parse_losses(losses)
        self._optim_wrapper.update_params(loss)
        loss.item()

    def measure(self, arm: str, steps: int) -> tuple[float, float | None]:
        """Images per second of an arm, and how busy the GPU was.

        Args:
            arm (str): One of ``ARMS``.
            steps (int): Batches that count.

        Returns:
            tuple[float, float | None]: The rate, and the share of time in which a GPU computed,
            in [0, 1]; None where it cannot be asked for.
        """
        path, _, part = arm.partition(' ')
        use = {'step': self._step, 'data': self._prepare, '': self._model_step}[part]
        # Begins the next epoch where one ends, as training does.
        batches = repeat(self._batch) if path == 'model' else \
            chain.from_iterable(repeat(self._loaders[path]))
        images = 0

        def run(count: int) -> None:
            nonlocal images
            images = 0
            for batch in islice(batches, count):
                use(batch)
                images += len(batch['inputs'])

        run(self._warm_up[path])
        seconds = time_call(lambda: run(steps), self.device)
        return images / seconds, _utilization(self.device)


def _utilization(device: torch.device) -> float | None:
    try:
        return torch.cuda.utilization(device) / 100 if device.type == 'cuda' else None
    except (ImportError, RuntimeError):  # without NVIDIA's library
        return None


def measure(paths: DataPaths, steps: int, rounds: int,
            on_arm: Callable[[], None] = lambda: None) -> Result:
    """Measure all arms in turn, in an order that alternates.

    A slow moment of the machine thus meets neighbours; the speed-up is that of each round.

    Args:
        paths (DataPaths): Takes the steps.
        steps (int): Batches of an arm in a round.
        rounds (int): How often, at least 2.
        on_arm (Callable): Called after each arm of each round.

    Returns:
        dict: ``speedup``, the median ratio of the steps' rates, and its ``quartiles``;
        ``images_per_second`` of each of ``ARMS``: ``median``, ``quartiles`` and those of all
        ``rounds``; and, where the GPU tells, ``gpu_utilization`` of each, the median.
    """
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    busy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for turn in range(rounds):
        for arm in ARMS[::-1] if turn % 2 else ARMS:
            rate, utilization = paths.measure(arm, steps)
            rates[arm].append(rate)
            if utilization is not None:
                busy[arm].append(utilization)
            on_arm()
    speedup = _summary(fast / ordinary for fast, ordinary in
                       zip(rates['fast step'], rates['ordinary step']))
    result = dict(speedup=speedup['median'], quartiles=speedup['quartiles'],
                  images_per_second={arm: dict(_summary(values), rounds=values)
                                     for arm, values in rates.items()})
    if all(len(values) == rounds for values in busy.values()):
        result['gpu_utilization'] = {arm: _summary(values)['median']
                                     for arm, values in busy.items()}
    return result


def _summary(values: Iterable[float]) -> dict[str, Any]:
    low, median, high = quartiles(values)
    return dict(median=median, quartiles=[low, high])
