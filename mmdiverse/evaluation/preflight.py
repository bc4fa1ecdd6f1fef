"""A training run tried out in a few steps, before its hours are paid for."""
import errno
import itertools
import math
import re
import runpy
import shutil
import tempfile
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from timm.data import ImageNetInfo
from torch import Tensor
from torch.utils.data import DataLoader

from ..config import check_hooks, type_name
from ..config_warnings import config_warnings
from ..datasets.folders import check_folders
from ..datasets.imagenet import check_imagenet
from ..hooks.diversity_hook import DiversityHook, check_num_classes
from ..launch import host_script
from ..learning_rate import scaled_learning_rate
from ..transfer import Pretrained, check_average_fits, check_pretrained, find_pretrained
from .measurement import count_bytes, describe_machine, peak_memory, time_call
from .runs import quiet_runner, scalar_metrics

#: Images of ImageNet-1k.
IMAGENET_1K = dict(train=1_281_167, val=50_000)
#: Shares of the gradient that deserve a word.
SMALL, LARGE = 1e-3, 0.5
#: Steps until a gradient in fp16 that overflows does not, with a smaller scale in each.
ATTEMPTS = 4
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
#: What writes the logs of a run to its folder; others publish them.
LOCAL_BACKENDS = ('LocalVisBackend', 'TensorboardVisBackend')


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


class _Ended(Exception):
    """All that a run is tried for has been seen."""


class _Probe(Hook):
    """Looks at a run after all other hooks, and ends it after some steps.

    The run is the real one up to there: lengths, schedules and hooks are those of the config.
    Whatever would change it is done after its last step.

    Args:
        steps (int): Training steps to take.
        scales (bool): Whether to measure the memory of twice the images too.
    """

    priority = 'LOWEST'

    def __init__(self, steps: int, scales: bool) -> None:
        self.steps = steps
        self.scales = scales
        self.losses: list[float] = []
        self.first: dict[str, float] = {}
        self.first_batch: Any = None
        self.batch: Any = None
        self.metrics: dict[str, float] = {}
        self.has_validated = False
        self.num_val_images = 0
        self.step_seconds = self.val_seconds = 0.
        self.peak = self.peak_of_twice = self.bytes_held = 0
        self.obstacle_to_shares = ''
        self._state: dict[str, Tensor] = {}
        self._has_finished = False
        self._start = 0.

    @property
    def num_images(self) -> int:
        """Of the last step."""
        return _count_images(self.batch)

    def before_train(self, runner: Runner) -> None:
        self._state = {key: value.detach().cpu().clone()
                       for key, value in runner.model.state_dict().items()
                       if isinstance(value, Tensor)}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                         outputs: dict | None = None) -> None:
        outputs = _numbers(outputs or {})
        self.losses.append(outputs.get('loss', math.nan))
        if not self.first:
            self.first, self.first_batch = outputs, data_batch
        self.batch = data_batch
        if len(self.losses) == self.steps:
            self._end_epoch(runner)
            self.finish(runner)
            raise _Ended

    def before_val_epoch(self, runner: Runner) -> None:
        self.num_val_images, self.val_seconds = 0, math.inf

    def before_val_iter(self, runner: Runner, batch_idx: int,
                        data_batch: Any | None = None) -> None:
        self._start = time.perf_counter()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                       outputs: Any | None = None) -> None:
        # The evaluator has taken the outputs off the GPU, so that there is nothing to wait for.
        seconds = time.perf_counter() - self._start
        count = len(outputs)
        self.num_val_images += count
        self.val_seconds = min(self.val_seconds, seconds / max(1, count))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.has_validated = True
        self.metrics = {key: value for key, value in scalar_metrics(metrics or {}).items()
                        if not key.endswith('time')}

    def finish(self, runner: Runner) -> None:
        """Validate, and measure further steps, while all hooks are in place."""
        if self._has_finished or not self.losses:
            return
        self._has_finished = True
        if runner.val_loop is not None and not self.has_validated:
            runner.val_loop.run()
        self._measure_steps(runner)
        self._count_bytes(runner)
        self._measure_shares(runner)

    def _end_epoch(self, runner: Runner) -> None:
        """Let the hooks see an end of the epoch, as if it had no more steps."""
        loop = runner.train_loop
        runner.call_hook('after_train_epoch')
        if isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
            loop._iter += 1
            loop._epoch += isinstance(loop, EpochBasedTrainLoop)

    def _measure_steps(self, runner: Runner) -> None:
        """Time and memory with the batch that came last, once and twice."""
        device = next(runner.model.parameters()).device
        runner.model.train()

        def step(batch: Any = self.batch) -> None:
            runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)

        self.step_seconds = min(time_call(step, device) for _ in range(2))
        self.peak = peak_memory(step, device)
        if self.scales:
            twice = _repeat_images(self.batch)
            self.peak_of_twice = peak_memory(lambda: step(twice), device)

    def _measure_shares(self, runner: Runner) -> None:
        """Take the first step again, with the gradient of each term, unless the run did so.

        The run itself is tried without: a measured step needs more memory, and other kernels.
        """
        hooks = [hook for hook in runner.hooks
                 if isinstance(hook, DiversityHook) and hook.tap is not None
                 and not hook.gradient_interval]
        if not hooks:
            return
        runner.model.load_state_dict(self._state, strict=False)
        for count in ('_iter', '_epoch'):
            if hasattr(runner.train_loop, count):
                setattr(runner.train_loop, count, 0)
        for hook in hooks:
            hook.gradient_interval = 1
            hook.before_train(runner)
            hook.before_train_iter(runner, 0, self.first_batch)
        try:
            for _ in range(ATTEMPTS):
                outputs = runner.model.train_step(self.first_batch,
                                                  optim_wrapper=runner.optim_wrapper)
                shares = {key: value for key, value in _numbers(outputs).items()
                          if key.endswith('_gradient_share')}
                if shares:
                    break
            self.first.update(shares)
        except RuntimeError as error:  # such as too little memory, of which the run needs less
            self.obstacle_to_shares = str(error).partition('\n')[0]

    def _count_bytes(self, runner: Runner) -> None:
        weights = count_bytes([*runner.model.parameters(), *runner.model.buffers()])
        averages = sum(count_bytes([*hook.ema_model.parameters(), *hook.ema_model.buffers()])
                       for hook in runner.hooks if isinstance(hook, EMAHook))
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        state = count_bytes(value for wrapper in wrappers
                            for values in wrapper.optimizer.state.values()
                            for value in values.values() if isinstance(value, Tensor))
        self.bytes_held = weights + averages + state


class _ProbeBefore(Hook):
    """Looks before all other hooks.

    Checks what hooks take for granted of metrics, and lets the probe finish where a run ends by
    itself, as long as other hooks have not left the model.
    """

    priority = 'HIGHEST'

    def __init__(self, probe: _Probe) -> None:
        self.probe = probe

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        for hook in runner.hooks:
            wanted = getattr(hook, 'save_best', None) if isinstance(hook, CheckpointHook) else None
            missing = [name for name in wanted or () if name not in ('auto', *(metrics or {}))]
            if missing and metrics:
                raise ValueError(f'`save_best` of {type(hook).__name__} names {missing[0]!r}, but '
                                 f'validation gives {", ".join(metrics)}: set '
                                 '`default_hooks.checkpoint.save_best` to one of these')

    def after_train(self, runner: Runner) -> None:
        self.probe.finish(runner)


def _numbers(outputs: dict[str, Any]) -> dict[str, float]:
    return {key: value.item() if isinstance(value, Tensor) else float(value)
            for key, value in outputs.items()}


def _count_images(batch: Any) -> int:
    """How many images a batch of a data loader holds."""
    if isinstance(batch, Mapping):
        # `inputs` may be a list of views.
        samples = batch.get('data_samples')
        return len(batch['inputs'] if samples is None else samples)
    return len(batch[0])


def _repeat_images(batch: Any) -> Any:
    """A batch with every image twice."""
    if isinstance(batch, Mapping):
        return {key: _repeat_images(value) for key, value in batch.items()}
    if isinstance(batch, Tensor):
        return torch.cat((batch, batch))
    if isinstance(batch, (list, tuple)):
        # A list holds images, or for each view all images.
        of_views = any(isinstance(part, (list, tuple)) or isinstance(part, Tensor) and part.ndim > 3
                       for part in batch)
        return [_repeat_images(part) for part in batch] if of_views else [*batch, *batch]
    return batch


def preflight(cfg: Config, gpus: int, batch_size: int | None = None, steps: int = 3,
              sample: str | Path | None = None, name: str | Path | None = None,
              tell: Callable[[Check], None] = lambda check: None) -> Preflight:
    """Try out what a training run needs, in one process and in a few steps.

    Builds the run, checks its data, takes ``steps`` training steps and as many of validation, and
    estimates memory, hours and disk. The run is that of the config, its hooks, schedules and
    lengths included, and is left after its last step; it starts anew, in one process. It writes to
    a temporary folder alone, and to no service of logs.

    Args:
        cfg (Config): Of the run, as ``tools/train.py`` takes it.
        gpus (int): How many will train.
        batch_size (int, optional): Images of a step here, where those of the config (for each GPU)
            do not fit; estimates are scaled. Defaults to the config's.
        steps (int): Training steps to take. Defaults to 3.
        sample (str | Path, optional): A folder of images in ImageNet's layout, ``train/CLASS/*``
            and ``val/CLASS/*``, to try with in place of ImageNet. It may lack images and classes.
        name (str | Path, optional): The file of the config, or ``package::path``, for what it may
            have lost of what it inherits. Defaults to the config's own.
        tell (Callable): Called with every :class:`Check` as soon as it is made.

    Returns:
        Preflight: With a failed check in place of an error where the run cannot start.

    Raises:
        FileNotFoundError: If the sample holds no images for a split.
        ValueError: If ``gpus``, ``batch_size`` or ``steps`` are too few, the config trains nothing,
            or there is a sample and the config is not for ImageNet.
    """
    for option, value, least in (('gpus', gpus, 1), ('batch_size', batch_size, 2),
                                 ('steps', steps, 1)):
        if value is not None and value < least:
            raise ValueError(f'`{option}` must be at least {least}, but got {value}')
    for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not isinstance(cfg.get(key), dict):
            raise ValueError(f'a training run needs `{key}`, a dict, but the config has '
                             f'{cfg.get(key)!r}')
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
            run.lost = config_warnings(cfg, name)
            for text in run.lost:
                look('config', partial(_note, text))
            look('learning rate', run.check_learning_rate)
            look('model', run.build)
            look('training data', run.open_training_data)
            look('validation data', run.open_validation_data)
            for check in run.checkpoint_checks():
                look('checkpoint', check)
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
        self.batch_size = batch_size or cfg.train_dataloader.get('batch_size', 1)
        self.is_reduced = batch_size is not None
        self.steps = steps
        self.folder = folder
        self.wanted = cfg.train_dataloader.get('batch_size', 1)
        self.probe = _Probe(steps, scales=self.batch_size < self.wanted)
        self.runner: Runner | None = None
        self.lost: list[str] = []
        self.images = dict(train=0, val=0)
        self.terms: list[TermAtStart] = []
        self.estimates: dict[str, float] = {}

    @property
    def images_of_step(self) -> int:
        """Of the whole run, over all GPUs and accumulated batches."""
        wrapper = self.cfg.get('optim_wrapper') or {}
        return self.gpus * self.wanted * wrapper.get('accumulative_counts', 1)

    def check_learning_rate(self) -> tuple[str, str]:
        rate = scaled_learning_rate(self.cfg, self.gpus)
        if rate is None:
            return 'note', ('no `auto_scale_lr.base_batch_size` to check the learning rate '
                            'against: the images for which `optim_wrapper.optimizer.lr` is meant, '
                            f'{self.images_of_step} if for the steps of this run')
        text = (f'{rate.actual:g} for steps of {rate.images:,} images; the config has '
                f'{rate.configured:g} for {rate.base:,}')
        if rate.fits:
            return 'ok', text
        return 'failed', (f'{text}, which is {rate.scaled:g} for {rate.images:,}: set '
                          f'`optim_wrapper.optimizer.lr={rate.scaled:g}`, or another number of '
                          'GPUs (--gpus) or `train_dataloader.batch_size`; or, if the rate is '
                          f'right for these steps, `{rate.options_as_right}`')

    def build(self) -> tuple[str, str]:
        check_hooks(self.cfg)
        cfg = _with_host_defaults(deepcopy(self.cfg))
        cfg.work_dir, cfg.experiment_name = self.folder, f'preflight_{uuid.uuid4().hex}'
        cfg.launcher, cfg.resume = 'none', False
        without = [type_name(cfg.pop('strategy'))] if cfg.get('strategy') else []
        without += _keep_logs_here(cfg)
        if self.is_reduced:
            for loader in (cfg.train_dataloader, cfg.get('val_dataloader')):
                if loader is not None:
                    loader.batch_size = min(self.batch_size, loader.get('batch_size', 1))
        scaling = cfg.get('auto_scale_lr') or {}
        if scaling.get('enable') and scaling.get('base_batch_size'):
            # The rate of the whole run, though fewer images are in a step here.
            scaling.base_batch_size *= cfg.train_dataloader.batch_size / (self.gpus * self.wanted)
        self.runner = quiet_runner(cfg)
        for hook in self.runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.out_dir, hook.backend_args, hook.file_client_args = None, None, None
        self.runner.register_hook(self.probe, priority='LOWEST')
        self.runner.register_hook(_ProbeBefore(self.probe), priority='HIGHEST')
        model = self.runner.model
        count = sum(parameter.numel() for parameter in model.parameters())
        text = (f'{type(model).__name__} of {type(getattr(model, "backbone", model)).__name__}, '
                f'{count / 1e6:.1f} million parameters')
        if without:
            return 'note', f'{text}; tried in one process, without {", ".join(without)}'
        return 'ok', text

    def open_training_data(self) -> tuple[str, str]:
        check_folders(self.cfg.train_dataloader, 'train_dataloader')
        check_imagenet(self.cfg.train_dataloader)
        runner = self.runner
        loop = runner._train_loop = runner.build_train_loop(runner._train_loop)
        verdict = self._count_images('train', loop.dataloader)
        if len(loop.dataloader) == 0:
            raise ValueError(
                f'{verdict[1]}, which are no step of {loop.dataloader.batch_size} images: lower '
                '`train_dataloader.batch_size`, or set `train_dataloader.drop_last=False`')
        check_num_classes(runner.model, loop.dataloader)
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

    def checkpoint_checks(self) -> list[Callable[[], tuple[str, str]]]:
        """A check of each checkpoint that the run, its model or a part of it starts from."""
        model, source = self.runner.model, self.cfg.get('load_from')
        sources = find_pretrained(model, self.cfg.model)
        if source:
            sources.append(Pretrained('load_from', model, str(source), None))
        checks = [partial(self._check_checkpoint, each) for each in sources]
        if self.cfg.get('resume'):
            checks.append(lambda: ('note', '`resume` is not tried: the run starts anew here'))
        return checks or [lambda: ('ok', 'none, training starts from scratch')]

    def _check_checkpoint(self, source: Pretrained) -> tuple[str, str]:
        is_whole, text = check_pretrained(source)
        if source.key == 'load_from':
            check_average_fits(self.cfg)
        return 'ok' if is_whole else 'note', text

    def train(self) -> tuple[str, str]:
        try:
            self.runner.train()
        except _Ended:
            pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(f'{error}: the checkpoint of this trial needs room for temporary files; '
                          'let the environment variable TMPDIR name a folder that has it') from None
        losses = self.probe.losses
        if not losses:
            raise ValueError('the run ends before its first step: `train_cfg` asks for '
                             f'{self.runner.max_epochs} epochs, {self.runner.max_iters} iterations')
        text = (f'{_plural(len(losses), "step")} of {self.probe.num_images} images, '
                f'{self.probe.step_seconds:.2f} s each; loss {losses[0]:.4f} to {losses[-1]:.4f}')
        return ('ok' if all(map(math.isfinite, losses)) else 'failed'), text

    def say_validation(self) -> tuple[str, str]:
        if not self.probe.has_validated:
            return 'note', 'none'
        scores = ', '.join(f'{name} {value:.2f}' for name, value in self.probe.metrics.items())
        if not scores:
            return 'note', f'{self.probe.num_val_images} images, no metric that is a number'
        return 'ok', f'{self.probe.num_val_images} images, {scores}'

    def estimate_memory(self) -> tuple[str, str]:
        wanted, measured = self.wanted, self.probe.num_images
        peak = self.probe.peak
        if self.probe.scales:
            peak += (self.probe.peak_of_twice - peak) * (wanted / measured - 1)
        self.estimates.update(bytes_per_gpu=self.probe.bytes_held + peak,
                              bytes_of_measured_step=self.probe.peak)
        return 'ok', (f'{_gib(self.probe.bytes_held + peak)} for each GPU with {wanted} images: '
                      f'{_gib(self.probe.bytes_held)} of weights, averages and optimizer, and '
                      f'{_gib(peak)} in a step' + _scaled(wanted, measured))

    def estimate_time(self) -> tuple[str, str]:
        loop, wanted = self.runner.train_loop, self.wanted
        measured = self.probe.num_images
        step = self.probe.step_seconds * wanted / measured
        epoch = self.cfg.train_dataloader.get('num_batch_per_epoch') or \
            math.ceil(self.images['train'] / (self.gpus * wanted))
        by_epoch = not isinstance(loop, IterBasedTrainLoop)
        steps = loop.max_epochs * epoch if by_epoch else loop.max_iters
        validations = 0 if self.runner.val_loop is None else \
            (loop.max_epochs if by_epoch else steps) // getattr(loop, 'val_interval', 1)
        images = math.ceil(self.images['val'] / self.gpus) * validations
        hours = (steps * step + images * self.probe.val_seconds) / 3600
        self.estimates.update(step_seconds=step, steps=steps, hours=hours,
                              val_seconds_per_image=self.probe.val_seconds)
        return 'ok', (f'{hours:,.1f} hours: {_plural(steps, "step")} of {step:.2f} s on '
                      f'{_plural(self.gpus, "GPU")} like this {torch.device(get_device()).type}, '
                      f'and {_plural(validations, "validation")}; without the time of '
                      'communication, or of data that come too slowly' + _scaled(wanted, measured))

    def estimate_disk(self) -> tuple[str, str]:
        loop = self.runner.train_loop
        count = sum(_count_checkpoints(hook, loop) for hook in self.runner.hooks
                    if isinstance(hook, CheckpointHook))
        total = count * self.probe.bytes_held
        self.estimates.update(bytes_per_checkpoint=self.probe.bytes_held, bytes_on_disk=total)
        place = Path(self.cfg.get('work_dir') or 'work_dirs').absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        text = (f'{_plural(count, "checkpoint")} of {_gib(self.probe.bytes_held)}, '
                f'{_gib(total)} in all; {_gib(free)} are free here')
        if count == 0:
            return 'note', 'no checkpoints: `default_hooks.checkpoint` saves none'
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
            return ('note', 'no terms: see `config` above') if self.lost else ('ok', 'no terms')
        small = [term.name for term in self.terms if term.gradient_share < SMALL]
        large = [term.name for term in self.terms if term.gradient_share > LARGE]
        text = _plural(len(self.terms), 'term')
        if self.probe.obstacle_to_shares:
            text += ('; their parts of the gradient could not be measured: '
                     f'{self.probe.obstacle_to_shares}')
        if small:
            text += (f'; {", ".join(small)} give{"s" * (len(small) == 1)} less than {SMALL:.1%} of '
                     'the gradient')
        if large:
            text += (f'; {", ".join(large)} give{"s" * (len(large) == 1)} more than {LARGE:.0%} of '
                     'the gradient')
        return ('note' if small or large else 'ok'), text


def _note(text: str) -> tuple[str, str]:
    return 'note', text


def _with_host_defaults(cfg: Config) -> Config:
    """Give the data loaders what MMPretrain's ``train.py`` gives them."""
    host = runpy.run_path(str(host_script('train.py')), run_name='mmpretrain_tool')
    stated = {key: 'persistent_workers' in cfg[key] for key in LOADERS if cfg.get(key)}
    cfg = host['merge_args'](cfg, Namespace(
        no_validate=False, launcher='none', work_dir='', amp=False, resume=None,
        auto_scale_lr=False, no_pin_memory=False, no_persistent_workers=False, cfg_options=None))
    for key, is_stated in stated.items():
        if not is_stated and not cfg[key].get('num_workers'):
            cfg[key].persistent_workers = False
    return cfg


def _keep_logs_here(cfg: Config) -> list[str]:
    """Let a run log to its own folder alone; returns the names of what it goes without."""
    visualizer = cfg.get('visualizer')
    if not isinstance(visualizer, dict):
        return []
    visualizer.pop('save_dir', None)
    backends = visualizer.get('vis_backends') or []
    kept = [backend for backend in backends if type_name(backend) in LOCAL_BACKENDS]
    for backend in kept:
        backend.pop('save_dir', None)
    if backends:
        visualizer.vis_backends = kept
    return [type_name(backend) for backend in backends if backend not in kept]


def _count_checkpoints(hook: CheckpointHook, loop: BaseLoop) -> int:
    """How many checkpoints of a run stay on the disk."""
    last = loop.max_epochs if hook.by_epoch else loop.max_iters
    saved = last // hook.interval if hook.interval > 0 else 0
    if hook.save_last and (hook.interval <= 0 or last % hook.interval):
        saved += 1
    kept = min(saved, hook.max_keep_ckpts) if hook.max_keep_ckpts > 0 else saved
    return kept + len(hook.save_best or ())


def _scaled(wanted: int, measured: int) -> str:
    return '' if wanted == measured else f' (scaled from {measured} images)'


def _plural(count: int, noun: str) -> str:
    return f'{count:,} {noun}{"s" * (count != 1)}'


def _gib(count: float) -> str:
    return f'{count / 2**30:,.2f} GiB'
