"""The hook that turns a run of MMPretrain into a diversified one."""
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from ..datasets.folders import check_class_folders, find_empty_folders
from ..gradient_norms import gradient_norms, gradient_shares
from ..image_mask import find_image_mask
from ..optim.overflows import UNSAVED, Overflows, has_scaler
from ..registry import HOOKS
from ..schedules import WeightSchedule
from ..spelling import counted
from ..taps import Tap, build_tap
from ..taps.base import Request, find_backbone, is_sequence
from ..terms import DiversityTerm, build_term


@HOOKS.register_module()
class DiversityHook(Hook):
    r"""Adds diversity terms to the losses of the model that is trained.

    .. math:: \mathcal L = \mathcal L_\text{model} + \sum_t w_t\, \mathcal L_t

    The way of the data: before training, a :class:`~mmdiverse.taps.Tap` is attached to the
    backbone. In every forward pass with ``mode='loss'`` it captures what the terms need. When the
    model returns its dict of losses, the terms are evaluated in fp32 and added to it, inside the
    model's own forward pass; so autocast, gradient accumulation, distributed wrappers and
    ``parse_losses`` see one loss like any other. Nothing is captured in validation, and nothing
    is attached where all weights are 0: such a run is MMPretrain's own, bit for bit.

    Each term logs ``loss_<name>``, its weighted value, and ``<name>``, its raw value; one with a
    ``schedule`` also ``<name>_weight``. While a schedule has a term at 0, it is neither evaluated
    nor logged. The key ``loss`` of a classification head becomes ``loss_cls``, because MMEngine
    lets it overwrite the total, which it logs under the same name.

    With a ``gradient_interval``, iterations 0, ``gradient_interval``, ``2 * gradient_interval``
    and so on also log ``<name>_gradient_share``, how much of the gradient each weighted term
    gives, and ``model_gradient_share`` for the model's own loss:

    .. math:: s_t = \frac{\lVert w_t \nabla \mathcal L_t \rVert_2}
        {\lVert \nabla \mathcal L_\text{model} \rVert_2
         + \sum_u \lVert w_u \nabla \mathcal L_u \rVert_2}

    over all trainable parameters, in [0, 1] with a sum of 1: a term near 0 changes nothing, one
    near 1 drowns the task. Lines of the log in between repeat the newest share. Such an iteration
    costs one backward pass more for each term and one for the model, and the memory of one
    gradient; training itself is the same bit for bit. In a distributed run the gradient is the
    mean over the processes. Where it overflows in fp16, the next iteration is measured in its
    place. Shares are left out, with a warning, under FSDP, DeepSpeed, ``torch.compile`` and
    re-entrant activation checkpointing, which allow no gradient but that of the backward pass
    itself: a warning and no error, since training there is right all the same.

    A model may call its backbone several times in a step, as MoCo v3 does for two views: a term is
    then the mean over the images of all calls. What another network sees, such as a momentum
    encoder or a teacher, is not read.

    In the batches of MMDetection and MMSegmentation, tokens of padding are left out of every term,
    and so are those whose pixels the segmentation ignores (``decode_head.ignore_index``): see
    :class:`~mmdiverse.image_mask.ImageMask`. A batch of which no token is left gives 0.

    Under ``DistributedDataParallel`` the processes share out the matrices of terms at weight
    level. Where a power iteration ended is saved in checkpoints under ``diversity_hook`` and
    resumed from there.

    A run may have several such hooks. The first then evaluates the terms of all, with the smallest
    ``gradient_interval``, so that the shares of all sum up to 1.

    A loss that is NaN or infinite ends training before it is saved. Where a scaler leaves out steps
    that overflow in half precision, a few in a row are waited for: at most
    :data:`~mmdiverse.optim.overflows.LIMIT`, or until a dynamic scale is below 1. No checkpoint is
    saved after :data:`~mmdiverse.optim.overflows.UNSAVED` of them.

    Source: Chen et al., The Principle of Diversity, CVPR 2022 (arXiv 2203.06345).

    Args:
        terms (Sequence[dict]): Config of each :class:`~mmdiverse.terms.DiversityTerm`.
        gradient_interval (int): Iterations from one measurement of shares to the next; 0 for none.
            Defaults to 0.

    Raises:
        TypeError: If a value of a term has a wrong type, or a loss has no such option.
        ValueError: If a term or ``gradient_interval`` is invalid, or two terms share a name (when
            the hook is built); if terms of two hooks share one, no tap knows the backbone, a layer
            does not exist, or the number of classes of head and data differ (before training); if a
            loss cannot work on what it is given (in the first step).
        RuntimeError: In the first step, if a term captures nothing or has no gradient, or a weight
            is sharded away; in any step, if a loss is not finite, under a scaler for too long.

    Example:
        >>> custom_hooks = [
        ...     dict(type='mmdiverse.DiversityHook', terms=[
        ...         dict(type='CosineLoss', on='patch', layers=-1, weight=0.5)])
        ... ]
    """

    def __init__(self, terms: Sequence[dict], gradient_interval: int = 0) -> None:
        if not is_sequence(terms):
            raise TypeError(f'DiversityHook `terms` must be a list of dicts, but got {terms!r}')
        self.terms: list[DiversityTerm] = []
        for index, config in enumerate(terms):
            if not isinstance(config, dict):
                raise TypeError(f'DiversityHook `terms` must be a list of dicts, but terms[{index}]'
                                f' is {config!r}')
            try:
                self.terms.append(build_term(config))
            except (TypeError, ValueError) as error:
                raise type(error)(f'DiversityHook terms[{index}] ({config.get("type")}): {error}') \
                    from error
        _check_names(self.terms)
        if type(gradient_interval) is not int or gradient_interval < 0:
            raise ValueError('DiversityHook `gradient_interval` must be a number of iterations, or '
                             f'0 for none, but got {gradient_interval!r}')
        self.gradient_interval = gradient_interval
        self.tap: Tap | None = None
        #: The hooks whose terms this one evaluates.
        self._hooks: list[DiversityHook] = [self]
        self._overflows: Overflows | None = None
        self._handles: list[RemovableHandle] = []
        self._generator: torch.Generator | None = None
        self._share_weights = False
        self._ignore_index: int | None = None
        self._gradient_interval = 0
        self._measures_gradients = False
        self._loss_scale = 1.
        self._newest: tuple[int, int, dict[str, float]] = (0, 0, {})
        self._last_checkpoint: str | None = None
        self._forward_context = ExitStack()

    @property
    def enabled_terms(self) -> list[DiversityTerm]:
        """The terms whose weight is not 0."""
        return [term for term in self.terms if term.weight > 0]

    @property
    def scheduled_terms(self) -> list[DiversityTerm]:
        """The enabled terms whose weight changes."""
        return [term for term in self.enabled_terms if term.schedule is not None]

    @property
    def _evaluated_terms(self) -> list[DiversityTerm]:
        return [term for hook in self._hooks for term in hook.enabled_terms]

    @property
    def _evaluated_schedules(self) -> list[DiversityTerm]:
        return [term for hook in self._hooks for term in hook.scheduled_terms]

    def before_train(self, runner: Runner) -> None:
        """Check the terms against the model and the data, and attach to the model."""
        self._join(runner)
        if not self._hooks:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if self._evaluated_terms:
            check_sharding(runner.model)
        check_num_classes(model, runner.train_dataloader)
        validation = getattr(getattr(runner, 'val_loop', None), 'dataloader', None)
        check_class_folders(getattr(validation, 'dataset', None), 'val_dataloader')
        self.attach(model)
        self._share_weights = isinstance(runner.model, DistributedDataParallel)
        intervals = [hook.gradient_interval for hook in self._hooks if hook.gradient_interval]
        self._gradient_interval = min(intervals, default=0) if self._evaluated_terms else 0
        obstacle = _obstacle_to_gradients(runner)
        if obstacle is not None:
            self._leave_out_gradients(obstacle)
        optim_wrapper = getattr(runner, 'optim_wrapper', None)
        if self._evaluated_terms and has_scaler(optim_wrapper):
            self._overflows = Overflows(optim_wrapper)
        for term in self._evaluated_schedules:
            with _named(term):
                _reset_schedule(term.schedule, runner)
        if self.tap is not None:
            runner.logger.info('Diversity terms: ' + ', '.join(
                f'{term.name} (weight {term.weight:g}, layers {term.resolve(self.tap)})'
                for term in self._evaluated_terms))
        else:
            runner.logger.info('Diversity terms: none, all weights are 0')

    def before_train_iter(self, runner: Runner, batch_idx: int,
                          data_batch: Any | None = None) -> None:
        """Seed the random starts of this iteration."""
        if self._generator is not None:
            self._generator.manual_seed((runner.seed or 0) + runner.iter)
        if self._gradient_interval and runner.iter % self._gradient_interval == 0:
            self._measures_gradients = True
        if self._measures_gradients:
            scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
            self._loss_scale = 1. if scaler is None else scaler.get_scale()
        for term in self._evaluated_schedules:
            if term.current_weight == 0:
                # The log would go on showing the last values.
                for key in (f'loss_{term.name}', term.name, f'{term.name}_weight',
                            f'{term.name}_gradient_share'):
                    runner.message_hub.log_scalars.pop(f'train/{key}', None)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                         outputs: dict | None = None) -> None:
        """Check that no loss is NaN or infinite, and move the schedules that go by iteration."""
        if self._evaluated_terms and outputs:
            self._check_finite(runner, outputs)
        for term in self._evaluated_schedules:
            with _named(term):
                term.schedule.step_iter()

    def after_train_epoch(self, runner: Runner) -> None:
        """Move the schedules that go by epoch."""
        for term in self._evaluated_schedules:
            with _named(term):
                term.schedule.step_epoch()

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        self.detach()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save where power iterations ended, if training goes well.

        Raises:
            RuntimeError: If the losses of the last iterations are not finite.
        """
        if self._overflows is not None and self._overflows.losses >= UNSAVED:
            self._end(f'the losses are not finite for {self._overflows.losses} iterations '
                      'in a row, the last')
        states = {term.name: dict(term.loss.state) for term in self.terms if term.loss.state}
        if states:  # another hook may have put its own there
            checkpoint.setdefault('diversity_hook', {}).update(states)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Resume power iterations where they ended."""
        states = checkpoint.get('diversity_hook', {})
        for term in self.terms:
            term.loss.state.update(states.get(term.name, {}))

    def attach(self, model: nn.Module) -> None:
        """Attach to a model, so that its forward passes with ``mode='loss'`` are diversified.

        Args:
            model (nn.Module): A model with a ``backbone``, or a ``TimmClassifier`` or
                ``HuggingFaceClassifier`` of MMPretrain; not wrapped.

        Raises:
            ValueError: If the model has no backbone, no tap knows it, or a term does not fit it.
        """
        self.detach()
        if not self._evaluated_terms:
            return
        backbone = find_backbone(model)
        if backbone is None:
            raise ValueError(f'DiversityHook needs a model with a `backbone`, but '
                             f'{type(model).__name__} has none')
        tap = build_tap(backbone)
        requests = []
        for hook in self._hooks:
            requests += hook._requests(tap)
        tap.attach(requests)
        self.tap = tap
        self._ignore_index = getattr(getattr(model, 'decode_head', None), 'ignore_index', None)
        device = next(model.parameters()).device
        self._generator = torch.Generator(device=device)
        for term in self._evaluated_terms:
            term.loss.generator = self._generator
        self._handles = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            # Also after an error, which may be caught outside: MMEngine calls no hook of ours then.
            model.register_forward_hook(self._after_forward, with_kwargs=True, always_call=True),
        ]

    def check_layers(self) -> None:
        """Check the layers of all terms; see :meth:`~mmdiverse.terms.DiversityTerm.check_layers`.

        Raises:
            ValueError: If a term cannot work on its layers; the message names it.
        """
        for term in self.enabled_terms:
            with _named(term):
                term.check_layers(self.tap)

    def detach(self) -> None:
        """Remove every hook from the model and forget every tensor."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._overflows is not None:
            self._overflows.close()
        self._overflows = None
        self._forward_context.close()
        if self.tap is not None:
            self.tap.detach()
        self.tap = None

    def _join(self, runner: Runner) -> None:
        """Let the first hook of a run evaluate the terms of all."""
        hooks = [hook for hook in getattr(runner, 'hooks', [])
                 if isinstance(hook, DiversityHook)]
        if self not in hooks:  # driven by something else than the runner
            hooks = [self]
        self._hooks = hooks if self is hooks[0] else []
        _check_names([term for hook in self._hooks for term in hook.terms])

    def _requests(self, tap: Tap) -> list[Request]:
        requests = []
        for index, term in enumerate(self.terms):
            if term.weight > 0:
                try:
                    requests += term.requests(tap)
                except ValueError as error:
                    raise ValueError(f'DiversityHook terms[{index}] ({term.name}): {error}') \
                        from error
        return requests

    def _check_finite(self, runner: Runner, outputs: dict[str, Any]) -> None:
        # MMEngine has logged these numbers already, so a GPU has nothing left to wait for.
        values = {key: float(value) for key, value in outputs.items() if 'loss' in key}
        terms = {term.name: float(outputs[term.name]) for term in self._evaluated_terms
                 if term.name in outputs}
        weighted = {f'loss_{name}' for name in terms}
        model_losses = {key: value for key, value in values.items()
                        if key not in {'loss', *weighted}}
        self._newest = (runner.iter + 1, runner.epoch + 1, model_losses)
        # Later it may be that which is about to be saved.
        self._last_checkpoint = getattr(runner.message_hub, 'runtime_info', {}).get('last_ckpt')
        finite = all(map(math.isfinite, [*values.values(), *terms.values()]))
        if self._overflows is not None and (
                finite or not all(map(math.isfinite, model_losses.values()))):
            # Half precision overflowed everywhere, if it did: the scaler leaves this step out.
            reason = self._overflows.update(finite)
            if reason is not None:
                self._end(reason)
        elif not finite:
            broken = {name: value for name, value in terms.items() if not math.isfinite(value)} \
                or {'loss': values.get('loss')}
            self._end(', '.join(f'{name} is {value}' for name, value in broken.items()))

    def _end(self, reason: str) -> NoReturn:
        saved = self._last_checkpoint
        iteration, epoch, model_losses = self._newest
        raise RuntimeError(
            f'DiversityHook: {reason} in iteration {iteration} of epoch {epoch}, where the losses '
            f'of the model are {model_losses}. Training ends before this is saved'
            f'{f"; the last checkpoint is {saved}" if saved else ""}. Lower the `weight` of the '
            'term or the learning rate (`optim_wrapper.optimizer.lr`), clip gradients '
            '(`optim_wrapper.clip_grad`), or take bfloat16 in place of float16 '
            "(`optim_wrapper.dtype='bfloat16'`)")

    def _before_forward(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        # BaseModel.forward(inputs, data_samples, mode)
        mode = kwargs.get('mode', args[2] if len(args) > 2 else 'tensor')
        if mode != 'loss' or not model.training:
            return
        inputs, data_samples = (kwargs.get(name, args[index] if index < len(args) else None)
                                for index, name in enumerate(('inputs', 'data_samples')))
        self.tap.start(find_image_mask(inputs, data_samples, self._ignore_index))
        if any(term.loss.of_gradients and term.resolve(self.tap) != [len(self.tap.blocks) - 1]
               for term in self._active_terms()):
            # Fused attention can be differentiated only once.
            self._forward_context.enter_context(sdpa_kernel(SDPBackend.MATH))

    def _after_forward(self, model: nn.Module, args: tuple, kwargs: dict,
                       output: Any) -> dict | None:
        self._forward_context.close()
        if not self.tap.stop():
            return None
        try:
            return None if output is None else self._add_terms(model, output)
        finally:
            self.tap.clear()

    def _active_terms(self) -> list[DiversityTerm]:
        return [term for term in self._evaluated_terms if term.current_weight > 0]

    def _add_terms(self, model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        total = {('loss_cls' if key == 'loss' else key): value for key, value in losses.items()}
        terms = self._active_terms()
        measures = self._measures_gradients and torch.is_grad_enabled()
        model_loss = model.parse_losses(losses)[0] if measures or any(
            term.loss.of_gradients for term in terms) else None
        weighted = {}
        for term in terms:
            with _named(term):
                value = term.evaluate(self.tap, model_loss, self._share_weights)
            if torch.is_grad_enabled() and not value.requires_grad:
                raise RuntimeError(
                    f'DiversityHook term {term.name!r} has no gradient: all parameters that it '
                    'depends on are frozen; change its `layers` or `on`, or set its `weight` to 0')
            weighted[term.name] = term.current_weight * value
            entries = {f'loss_{term.name}': weighted[term.name], term.name: value.detach()}
            if term.schedule is not None:
                entries[f'{term.name}_weight'] = value.new_tensor(term.current_weight)
            _add(total, entries, term.name)
        if measures:
            shares = self._gradient_shares(model, {'model': model_loss, **weighted})
            for name, share in shares.items():
                _add(total, {f'{name}_gradient_share': share}, name)
        return total

    def _gradient_shares(self, model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The share of every loss in the gradient; nothing where it cannot be had."""
        try:
            norms = gradient_norms(losses, model.parameters(), self._loss_scale)
        except RuntimeError as error:
            if 'use_reentrant=True' not in str(error):
                raise
            self._leave_out_gradients('re-entrant activation checkpointing')
            return {}
        if self._loss_scale > 1 and not all(map(math.isfinite, norms.values())):
            return {}  # the scaler will take a smaller one in the next iteration
        self._measures_gradients = False
        return {name: torch.tensor(share) for name, share in gradient_shares(norms).items()}

    def _leave_out_gradients(self, obstacle: str) -> None:
        if self._gradient_interval:
            print_log(f'DiversityHook: the log will have no `gradient_share` of terms, because '
                      f'{obstacle} allows no gradients but those that it trains with; set '
                      '`gradient_interval` to 0 to do without this warning', 'current',
                      logging.WARNING)
        self._gradient_interval, self._measures_gradients = 0, False


def _check_names(terms: Iterable[DiversityTerm]) -> None:
    """Check that terms can be told apart in the log and in checkpoints."""
    for name, count in Counter(term.name for term in terms).items():
        if count > 1:
            raise ValueError(f'DiversityHook: {count} terms share the name {name!r}; give each a '
                             '`name` of its own')


@contextmanager
def _named(term: DiversityTerm) -> Iterator[None]:
    """Say of which term an error is."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise type(error)(f'DiversityHook term {term.name!r}: {error}') from error


def _add(total: dict[str, Tensor], entries: dict[str, Tensor], name: str) -> None:
    """Add what is logged of a term to what the model logs."""
    for key, entry in entries.items():
        if key in total:
            raise ValueError(f'DiversityHook term {name!r}: the model logs {key!r} already; give '
                             'the term another `name`')
        total[key] = entry


def _obstacle_to_gradients(runner: Runner) -> str | None:
    """What keeps a run from a gradient beside that of its backward pass, if anything does."""
    if is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel):
        return type(runner.model).__name__
    # Of `Runner` the first, of `FlexibleRunner` either.
    return '`compile`' if runner.cfg.get('compile') or getattr(runner, '_compile', None) else None


def _reset_schedule(schedule: WeightSchedule, runner: Runner) -> None:
    schedule.reset(len(runner.train_dataloader), runner.epoch, runner.iter, runner.max_epochs,
                   runner.max_iters)
    if schedule.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
        raise ValueError('`schedule` goes by epoch, but this run counts iterations alone; set '
                         '`by_epoch=False` in it')


def check_sharding(model: nn.Module) -> None:
    """Check that parameters can be found in a model, whole or sharded.

    Raises:
        ValueError: If FSDP puts them together in nameless ones.
    """
    if any(isinstance(module, FullyShardedDataParallel) and not module._use_orig_params
           for module in model.modules()):
        raise ValueError('DiversityHook finds no parameters in FSDP with `use_orig_params=False`; '
                         "set `use_orig_params=True`, MMEngine's default, in `model_wrapper` of "
                         'the strategy')


def check_num_classes(model: nn.Module, dataloader: DataLoader) -> None:
    """Check that the head has as many classes as the training data, and that all are classes.

    Raises:
        ValueError: If both numbers are known and differ, or a folder is taken for a class that is
            none.
    """
    expected = getattr(getattr(model, 'head', None), 'num_classes', None)
    dataset = getattr(dataloader, 'dataset', None)
    check_class_folders(dataset, 'train_dataloader')
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if expected is None or classes is None or len(classes) == expected:
        return
    found = (f'the training data have {counted(len(classes), "class", "classes")}, but the head '
             f'has {expected}')
    empty = find_empty_folders(dataset)
    if empty:
        raise ValueError(f'{found}. There is no image in the folders {empty}, which are taken for '
                         'classes; remove those that are none')
    raise ValueError(f'{found}; set `model.head.num_classes` and `data_preprocessor.num_classes` '
                     f'to {len(classes)}')
