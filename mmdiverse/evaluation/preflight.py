"""A training run tried out in a few steps, before its hours are paid for."""
import itertools
import math
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from timm.data import ImageNetInfo
from torch.utils.data import DataLoader

from ..config import HOOK, check_hooks, type_name
from ..datasets.folders import check_folders
from ..datasets.imagenet import check_imagenet
from ..hooks.diversity_hook import DiversityHook, check_num_classes
from ..learning_rate import scaled_learning_rate
from .measurement import count_bytes, describe_machine, peak_memory, time_call
from .model_loading import count_fitting_keys, read_state
from .runs import quiet_runner

#: Images of ImageNet-1k.
IMAGENET_1K = dict(train=1_281_167, val=50_000)
#: Shares of the gradient that deserve a word.
SMALL, LARGE = 1e-3, 0.5


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name (str): What it is.
        verdict (str): ``'ok'``, ``'note'`` for what may be meant, or ``'failed'``.
        text (str): What was found, and what to change.
    """

    name: str
    verdict: str
    text: str


@dataclass(frozen=True)
class TermAtStart:
    """A diversity term before the first step.

    Attributes:
        name (str): As in the log.
        weight (float): Its coefficient.
        value (float): Raw.
        weighted (float): What it adds to the loss.
        gradient_share (float): Its part of the gradient, in [0, 1]; see
            :class:`~mmdiverse.hooks.DiversityHook`. NaN where that cannot be measured, such as
            under ``torch.compile``.
    """

    name: str
    weight: float
    value: float
    weighted: float
    gradient_share: float


@dataclass
class Preflight:
    """What a dry run found.

    Attributes:
        checks (list[Check]): In the order in which they were made.
        terms (list[TermAtStart]): The diversity terms; empty without any.
        estimates (dict[str, float]): Figures behind the texts: seconds, bytes, images.
        machine (dict): What they were measured on.
    """

    checks: list[Check] = field(default_factory=list)
    terms: list[TermAtStart] = field(default_factory=list)
    estimates: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.verdict != 'failed' for check in self.checks)


class FirstBatches:
    """A data loader that ends after a few batches, but is as long as the whole one.

    Schedules thus take the lengths of the real run.

    Args:
        loader (DataLoader): The whole one.
        count (int): Batches to give.
    """

    def __init__(self, loader: DataLoader, count: int) -> None:
        self.loader = loader
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), self.count)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _Probe(Hook):
    """Looks at a run while its model and hooks are in place, and ends it after one epoch."""

    priority = 'HIGHEST'  # before DiversityHook leaves the model

    def __init__(self, scales: bool) -> None:
        self.scales = scales
        self.losses: list[float] = []
        self.first: dict[str, float] = {}
        self.batch: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.num_val_images = 0
        self.step_seconds = self.val_seconds = 0.
        self.peak = self.peak_of_twice = self.bytes_held = 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                         outputs: dict | None = None) -> None:
        outputs = {key: value.item() for key, value in outputs.items()}
        self.losses.append(outputs['loss'])
        self.first = self.first or outputs
        self.batch = data_batch

    def after_train_epoch(self, runner: Runner) -> None:
        runner.train_loop.stop_training = True

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                       outputs: Any | None = None) -> None:
        self.num_val_images += len(outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.metrics = {key: value for key, value in metrics.items() if not key.endswith('time')}

    def after_train(self, runner: Runner) -> None:
        """Time and memory of further steps, with the batch that came last, once and twice."""
        device = next(runner.model.parameters()).device
        runner.model.train()
        twice = {key: torch.cat((value, value)) if isinstance(value, torch.Tensor) else value * 2
                 for key, value in self.batch.items()}

        def step(batch: dict[str, Any] = self.batch) -> None:
            runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)

        self.step_seconds = min(time_call(step, device) for _ in range(2))
        self.peak = peak_memory(step, device)
        if self.scales:
            self.peak_of_twice = peak_memory(lambda: step(twice), device)
        runner.model.eval()
        with torch.no_grad():
            self.val_seconds = time_call(lambda: runner.model.val_step(self.batch), device)
        self.val_seconds /= len(self.batch['inputs'])
        self._count_bytes(runner)

    def _count_bytes(self, runner: Runner) -> None:
        weights = count_bytes([*runner.model.parameters(), *runner.model.buffers()])
        averages = sum(count_bytes([*hook.ema_model.parameters(), *hook.ema_model.buffers()])
                       for hook in runner.hooks if isinstance(hook, EMAHook))
        state = count_bytes(value for values in runner.optim_wrapper.optimizer.state.values()
                            for value in values.values() if isinstance(value, torch.Tensor))
        self.bytes_held = weights + averages + state


def preflight(cfg: Config, gpus: int, batch_size: int | None = None, steps: int = 3,
              sample: str | Path | None = None,
              tell: Callable[[Check], None] = lambda check: None) -> Preflight:
    """Try out what a training run needs, in one process and in a few steps.

    Builds the run, checks its data, takes ``steps`` training steps and as many of validation, and
    estimates memory, hours and disk. Writes to a temporary folder alone.

    Args:
        cfg (Config): Of the run, as ``tools/train.py`` takes it.
        gpus (int): How many will train.
        batch_size (int, optional): Images of a step here, where those of the config (for each GPU)
            do not fit; estimates are scaled. Defaults to the config's.
        steps (int): Training steps to take. Defaults to 3.
        sample (str | Path, optional): A folder of images in ImageNet's layout, ``train/CLASS/*``
            and ``val/CLASS/*``, to try with in place of ImageNet. It may lack images and classes.
        tell (Callable): Called with every :class:`Check` as soon as it is made.

    Returns:
        Preflight: With a failed check in place of an error where the run cannot start.

    Raises:
        FileNotFoundError: If the sample holds no images for a split.
        ValueError: If ``gpus``, ``batch_size`` or ``steps`` are too few, or there is a sample and
            the config is not for ImageNet.
    """
    for name, value, least in (('gpus', gpus, 1), ('batch_size', batch_size, 2),
                               ('steps', steps, 1)):
        if value is not None and value < least:
            raise ValueError(f'`{name}` must be at least {least}, but got {value}')
    found = Preflight()

    def look(name: str, check: Callable[[], tuple[str, str]]) -> None:
        try:
            verdict, text = check()
        except (Exception, SystemExit) as error:  # whatever a host, a data set, a library raises
            verdict, text = 'failed', f'{type(error).__name__}: {error}'
        found.checks.append(Check(name, verdict, text))
        tell(found.checks[-1])
        if verdict == 'failed' and name != 'learning rate':
            raise _Grounded

    with tempfile.TemporaryDirectory() as folder:
        if sample is not None:
            cfg = _put_sample(cfg, Path(sample), Path(folder))
        run = _DryRun(cfg, gpus, batch_size, steps, folder)
        try:
            look('learning rate', run.check_learning_rate)
            look('model', run.build)
            look('training data', run.open_training_data)
            look('validation data', run.open_validation_data)
            look('checkpoint', run.check_checkpoint)
            look('training', run.train)
            look('validation', run.say_validation)
            look('memory', run.estimate_memory)
            look('time', run.estimate_time)
            look('disk', run.estimate_disk)
            look('diversity', run.say_diversity)
        except _Grounded:
            pass
        found.terms, found.estimates = run.terms, run.estimates
        found.machine = describe_machine(torch.device(get_device()))
    return found


def _put_sample(cfg: Config, sample: Path, folder: Path) -> Config:
    cfg = deepcopy(cfg)
    labels = {name: label for label, name in enumerate(ImageNetInfo('imagenet-1k').label_names())}
    for split in ('train', 'val'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        if type_name(loader.dataset) != 'ImageNet':
            raise ValueError('a sample takes the place of ImageNet, but '
                             f'`{split}_dataloader.dataset` is a {type_name(loader.dataset)}')
        images = sorted(path for path in (sample / split).glob('*/*')
                        if path.is_file() and path.parent.name in labels)
        if not images:
            raise FileNotFoundError("the sample must hold images in ImageNet's layout, but there "
                                    f'are none in {sample / split}/n*/')
        # MMPretrain numbers the folders that there are, and stops where some are missing.
        annotations = folder / f'{split}.txt'
        annotations.write_text(''.join(
            f'{path.relative_to(sample / split)} {labels[path.parent.name]}\n'
            for path in images), encoding='utf-8')
        loader.dataset.update(data_root=str(sample.absolute()), data_prefix=split,
                              ann_file=str(annotations))
    return cfg


def planned_gpus(name: str) -> int:
    """The GPUs that a config is made for.

    Args:
        name (str): Of the file; OpenMMLab's names hold GPUs and images of each, ``8xb128``. With
            none in the name, 1.
    """
    in_name = re.search(r'_(\d+)xb\d+', Path(name).stem)
    return int(in_name[1]) if in_name else 1


class _Grounded(Exception):
    """What failed makes all further checks void."""


class _DryRun:
    """The checks, in the order in which they build on one another; each gives verdict and text."""

    def __init__(self, cfg: Config, gpus: int, batch_size: int | None, steps: int, folder: str
                 ) -> None:
        self.cfg = cfg
        self.gpus = gpus
        self.batch_size = batch_size or cfg.train_dataloader.batch_size
        self.steps = steps
        self.folder = folder
        self.probe = _Probe(scales=self.batch_size < cfg.train_dataloader.batch_size)
        self.runner: Runner | None = None
        self.images = dict(train=0, val=0)
        self.terms: list[TermAtStart] = []
        self.estimates: dict[str, float] = {}

    def check_learning_rate(self) -> tuple[str, str]:
        rate = scaled_learning_rate(self.cfg, self.gpus)
        if rate is None:
            return 'note', 'no `auto_scale_lr.base_batch_size` to check the learning rate against'
        text = (f'{rate.actual:g} for steps of {rate.images:,} images; the config has '
                f'{rate.configured:g} for {rate.base:,}')
        if rate.fits:
            return 'ok', text
        return 'failed', (f'{text}, which is {rate.scaled:g} for {rate.images:,}: set '
                          f'`optim_wrapper.optimizer.lr={rate.scaled:g}`, or another number of '
                          'GPUs (--gpus) or `train_dataloader.batch_size`')

    def build(self) -> tuple[str, str]:
        check_hooks(self.cfg)
        cfg = deepcopy(self.cfg)
        cfg.work_dir, cfg.experiment_name = self.folder, f'preflight_{uuid.uuid4().hex}'
        cfg.launcher, cfg.resume = 'none', False
        strategy = cfg.pop('strategy', None)
        cfg.default_hooks = {**(cfg.get('default_hooks') or {}), 'checkpoint': None}
        for loader in (cfg.train_dataloader, cfg.get('val_dataloader')):
            if loader is not None:
                loader.batch_size = min(self.batch_size, loader.batch_size)
        for hook in cfg.get('custom_hooks') or []:
            if type_name(hook) == HOOK:
                hook.gradient_interval = hook.get('gradient_interval') or self.steps
        self.runner = quiet_runner(cfg)
        self.runner.register_hook(self.probe, priority='HIGHEST')
        model = self.runner.model
        count = sum(parameter.numel() for parameter in model.parameters())
        text = (f'{type(model).__name__} of {type(getattr(model, "backbone", model)).__name__}, '
                f'{count / 1e6:.1f} million parameters')
        if strategy is not None:
            return 'note', f'{text}; tried in one process, without {type_name(strategy)}'
        return 'ok', text

    def open_training_data(self) -> tuple[str, str]:
        check_folders(self.cfg.train_dataloader, 'train_dataloader')
        check_imagenet(self.cfg.train_dataloader)
        runner = self.runner
        loop = runner._train_loop = runner.build_train_loop(runner._train_loop)
        verdict = self._count_images('train', loop.dataloader)
        check_num_classes(runner.model, loop.dataloader)
        loop.dataloader = FirstBatches(loop.dataloader, self.steps)
        if isinstance(loop, IterBasedTrainLoop):
            loop._max_iters = self.steps
        return verdict

    def open_validation_data(self) -> tuple[str, str]:
        runner = self.runner
        if runner.val_loop is None:
            return 'note', 'no `val_dataloader`: training will not be validated'
        check_folders(self.cfg.val_dataloader, 'val_dataloader')
        check_imagenet(self.cfg.val_dataloader)
        loop = runner._val_loop = runner.build_val_loop(runner._val_loop)
        verdict = self._count_images('val', loop.dataloader)
        loop.dataloader = FirstBatches(loop.dataloader, self.steps)
        return verdict

    def _count_images(self, split: str, loader: DataLoader) -> tuple[str, str]:
        images = self.images[split] = len(loader.dataset)
        classes = (getattr(loader.dataset, 'metainfo', None) or {}).get('classes')
        text = f'{images:,} images' + (f', {len(classes):,} classes' if classes else '')
        whole = IMAGENET_1K.get(split)
        if type(loader.dataset).__name__ != 'ImageNet' or images == whole:
            return 'ok', text
        self.images[split] = whole
        return 'note', f'{text}; the whole ImageNet-1k has {whole:,}, with which time is estimated'

    def check_checkpoint(self) -> tuple[str, str]:
        source = self.cfg.get('load_from')
        if not source:
            return 'ok', 'none, training starts from scratch'
        model = self.runner.model
        try:
            state = read_state(source)
        except (OSError, ValueError) as error:
            raise type(error)(f'`load_from`: {error}') from error
        fits, own = count_fitting_keys(model, state), len(model.state_dict())
        text = f'{fits} of the {own} keys of the model are in {source} and of the same shape'
        if fits < own / 2:
            raise ValueError(f'`load_from`: {text}; is it a checkpoint of another architecture? '
                             'MMEngine would go on with random weights')
        return ('ok' if fits == own else 'note'), text

    def train(self) -> tuple[str, str]:
        self.runner.train()
        losses = self.probe.losses
        text = (f'{len(losses)} steps of {len(self.probe.batch["inputs"])} images, '
                f'{self.probe.step_seconds:.2f} s each; loss {losses[0]:.4f} to {losses[-1]:.4f}')
        return ('ok' if all(map(math.isfinite, losses)) else 'failed'), text

    def say_validation(self) -> tuple[str, str]:
        scores = ', '.join(f'{name} {value:.2f}' for name, value in self.probe.metrics.items())
        if not scores:
            return 'note', 'none after the first epoch'
        return 'ok', f'{self.probe.num_val_images} images, {scores}'

    def estimate_memory(self) -> tuple[str, str]:
        wanted = self.cfg.train_dataloader.batch_size
        measured = len(self.probe.batch['inputs'])
        peak = self.probe.peak
        if self.probe.scales:
            peak += (self.probe.peak_of_twice - peak) * (wanted / measured - 1)
        self.estimates.update(bytes_per_gpu=self.probe.bytes_held + peak,
                              bytes_of_measured_step=self.probe.peak)
        return 'ok', (f'{_gib(self.probe.bytes_held + peak)} for each GPU with {wanted} images: '
                      f'{_gib(self.probe.bytes_held)} of weights, averages and optimizer, and '
                      f'{_gib(peak)} in a step' + _scaled(wanted, measured))

    def estimate_time(self) -> tuple[str, str]:
        loop, wanted = self.cfg.train_cfg, self.cfg.train_dataloader.batch_size
        measured = len(self.probe.batch['inputs'])
        step = self.probe.step_seconds * wanted / measured
        epoch = math.ceil(self.images['train'] / (self.gpus * wanted))
        by_epoch = not isinstance(self.runner.train_loop, IterBasedTrainLoop)
        steps = loop.max_epochs * epoch if by_epoch else loop.max_iters
        validations = (loop.max_epochs if by_epoch else steps) // loop.get('val_interval', 1)
        images = math.ceil(self.images['val'] / self.gpus) * validations
        hours = (steps * step + images * self.probe.val_seconds) / 3600
        self.estimates.update(step_seconds=step, steps=steps, hours=hours,
                              val_seconds_per_image=self.probe.val_seconds)
        return 'ok', (f'{hours:,.1f} hours: {steps:,} steps of {step:.2f} s on {self.gpus} GPUs '
                      f'like this {torch.device(get_device()).type}, and {validations} validations;'
                      ' without the time of communication, or of data that come too slowly'
                      + _scaled(wanted, measured))

    def estimate_disk(self) -> tuple[str, str]:
        hook = {'interval': 1, **((self.cfg.get('default_hooks') or {}).get('checkpoint') or {})}
        kept = hook.get('max_keep_ckpts', -1)
        last = self.cfg.train_cfg.get('max_epochs') if hook.get('by_epoch', True) else \
            self.cfg.train_cfg.get('max_iters')
        count = kept if kept > 0 else (last or 1) // max(1, hook['interval'])
        total = count * self.probe.bytes_held
        self.estimates.update(bytes_per_checkpoint=self.probe.bytes_held, bytes_on_disk=total)
        place = Path(self.cfg.get('work_dir') or 'work_dirs').absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        text = (f'{count} checkpoints of {_gib(self.probe.bytes_held)} are {_gib(total)}; '
                f'{_gib(free)} are free here')
        if total > free:
            return 'note', (f'{text}: keep fewer with '
                            '`default_hooks.checkpoint.max_keep_ckpts`, or set another `work_dir`')
        return 'ok', text

    def say_diversity(self) -> tuple[str, str]:
        hooks = [hook for hook in self.runner.hooks if isinstance(hook, DiversityHook)]
        first = self.probe.first
        self.terms = [
            TermAtStart(term.name, term.weight, first[term.name], first[f'loss_{term.name}'],
                        first.get(f'{term.name}_gradient_share', math.nan))
            for hook in hooks for term in hook.enabled_terms if term.name in first]
        if not self.terms:
            return 'ok', 'no terms'
        small = [term.name for term in self.terms if term.gradient_share < SMALL]
        large = [term.name for term in self.terms if term.gradient_share > LARGE]
        text = f'{len(self.terms)} terms'
        if small:
            text += f'; {", ".join(small)} give less than {SMALL:.1%} of the gradient'
        if large:
            text += f'; {", ".join(large)} give more than {LARGE:.0%} of the gradient'
        return ('note' if small or large else 'ok'), text


def _scaled(wanted: int, measured: int) -> str:
    return '' if wanted == measured else f' (scaled from {measured} images)'


def _gib(count: float) -> str:
    return f'{count / 2**30:,.2f} GiB'
