"""The hook through which a run sees how redundant its model is."""
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, autocast
from torch import nn

from ..evaluation.redundancy import RedundancyMeter, name_summaries, split_batch
from ..evaluation.redundancy_metric import RedundancyMetric
from ..measures import find_measures
from ..registry import HOOKS
from ..taps.base import Weights, find_backbone, inner_model


@HOOKS.register_module()
class RedundancyHook(Hook):
    """Logs measures of redundancy during training, and shows evaluators the model.

    Every ``interval`` iterations the training batch of that iteration, augmented as it is, is
    measured in the forward pass that is made anyway, in all processes. MMEngine's visualizer gets
    ``redundancy/<measure>/<layer>`` and the mean over layers, ``redundancy/<measure>``: so
    TensorBoard and the like show them when ``vis_backends`` of the ``visualizer`` names them.

    Every :class:`~mmdiverse.evaluation.RedundancyMetric` among ``val_evaluator`` and
    ``test_evaluator`` is given the backbone.

    Args:
        measures (Sequence[str] | str): Names in :data:`mmdiverse.measures.MEASURES`, which say
            what is more diverse; ``'all'``; or ``'default'``, one for each level and the
            rank-collapse residual. Of these two, a backbone without attention maps or matrices
            leaves out the measures of them, which a warning says.
        matrices (Sequence[str]): At weight level, among ``q``, ``k``, ``v``, ``proj``, ``fc1`` and
            ``fc2``. Defaults to the first three.
        interval (int): Iterations from one measurement to the next; 0 for none. Defaults to 100.

    Raises:
        TypeError: If ``measures`` is no list of names.
        ValueError: If a name is unknown or ``interval`` negative; before training, if no tap knows
            the backbone, or it lacks what is measured.
        ValueError: While training, if the images of a batch have several shapes.
        RuntimeError: While training, if a weight is sharded away.

    Example:
        >>> custom_hooks = [dict(type='mmdiverse.RedundancyHook', interval=50)]
        >>> visualizer = dict(type='UniversalVisualizer', vis_backends=[
        ...     dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
    """

    # After EMAHook, which copies the model before a run.
    priority = 'LOW'

    def __init__(self, measures: Sequence[str] | str = 'default',
                 matrices: Sequence[str] = Weights().matrices, interval: int = 100) -> None:
        find_measures(measures)
        if not isinstance(interval, int) or interval < 0:
            raise ValueError('RedundancyHook `interval` must be a number of iterations, or 0 for '
                             f'none, but got {interval!r}')
        self.measures = measures
        self.matrices = matrices
        self.interval = interval
        self.meter: RedundancyMeter | None = None
        self._metrics: list[RedundancyMetric] = []

    def before_train(self, runner: Runner) -> None:
        """Attach to the model."""
        self._show(runner, runner.val_loop)
        if self.interval:
            self.meter = RedundancyMeter(_find_backbone(runner), self.measures, self.matrices)

    def before_train_iter(self, runner: Runner, batch_idx: int,
                          data_batch: Any | None = None) -> None:
        """Measure this iteration, if it is its turn."""
        if self.meter is not None:
            _check_shapes(data_batch)
        if self.meter is not None and self.every_n_train_iters(runner, self.interval):
            self.meter.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None,
                         outputs: dict | None = None) -> None:
        """Log what was measured."""
        if self.meter is None or not self.every_n_train_iters(runner, self.interval):
            return
        self.meter.stop()
        scalars = {f'redundancy/{name}': value
                   for name, value in name_summaries(self.meter).items()}
        self.meter.reset()
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        """Let the metrics of validation watch."""
        self._watch(runner, runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Let the metrics of the test watch."""
        self._watch(runner, runner.test_loop)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None
                        ) -> None:
        """Let the metrics of validation look at this batch."""
        self._measure_batch(runner, runner.val_loop, data_batch)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any | None = None
                         ) -> None:
        """Let the metrics of the test look at this batch."""
        self._measure_batch(runner, runner.test_loop, data_batch)

    def after_run(self, runner: Runner) -> None:
        """Leave the model as it was."""
        if self.meter is not None:
            self.meter.detach()
        self.meter = None
        for metric in self._metrics:
            metric.detach()
        self._metrics.clear()

    def _watch(self, runner: Runner, loop: Any) -> None:
        self._show(runner, loop)
        for metric in _find_metrics(loop):
            metric.start()

    @torch.no_grad()
    def _measure_batch(self, runner: Runner, loop: Any, data_batch: Any) -> None:
        metrics = _find_metrics(loop)
        for metric in metrics:
            metric.meter.stop()  # none may count the passes that another makes
        for metric in metrics:
            with autocast(enabled=getattr(loop, 'fp16', False)):
                metric.measure_batch(runner.model, data_batch)

    def _show(self, runner: Runner, loop: Any) -> None:
        """Attach the metrics of a loop that are not yet."""
        for metric in _find_metrics(loop):
            if metric not in self._metrics:
                metric.attach(_find_backbone(runner))
                self._metrics.append(metric)


def _find_metrics(loop: Any) -> list[RedundancyMetric]:
    metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', [])
    return [metric for metric in metrics if isinstance(metric, RedundancyMetric)]


def _find_backbone(runner: Runner) -> nn.Module:
    backbone = find_backbone(runner.model)
    if backbone is None:
        raise ValueError(f'RedundancyHook needs a model with a `backbone`, but '
                         f'{type(inner_model(runner.model)).__name__} has none')
    return backbone


def _check_shapes(data_batch: Any) -> None:
    """Raise ValueError if images of a training batch are padded to each other's shapes."""
    if isinstance(data_batch, dict) and len(split_batch(data_batch)) > 1:
        shapes = sorted({tuple(image.shape[1:]) for image in data_batch['inputs']})
        raise ValueError(
            f'RedundancyHook would measure padding: images of a training batch have the sizes '
            f'{shapes}. Resize or crop them to one (`train_dataloader.dataset.pipeline`), or set '
            '`interval=0`, which leaves evaluations measured')
