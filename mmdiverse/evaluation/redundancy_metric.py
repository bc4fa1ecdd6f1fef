"""Measures of redundancy as a metric of MMEngine's evaluators."""
from collections.abc import Sequence
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from ..measures import find_measures
from ..registry import METRICS
from ..taps.base import Weights, inner_model
from .redundancy import RedundancyMeter, name_summaries, split_batch


@METRICS.register_module()
class RedundancyMetric(BaseMetric):
    """How redundant the backbone is, beside other metrics in one evaluation.

    It watches the forward passes that the evaluation makes anyway, and keeps running means: memory
    does not grow with the data set. An evaluator knows no model, so a
    :class:`~mmdiverse.hooks.RedundancyHook` must show it. Under distributed evaluation every image
    counts once, also where the sampler repeats some. Under test-time augmentation
    (``tools/test.py --tta``) it counts with the mean of its views.

    Where the images of a batch have several shapes, of which the model sees them padded to one,
    what is measured are passes of its own over images without that padding, so that nothing
    depends on the batch size.

    It gives ``redundancy/<measure>``, the mean over layers of what
    :func:`~mmdiverse.evaluation.redundancy.summarize` says of each, and with ``per_layer`` also
    ``redundancy/<measure>/<layer>``. Layers for which a measure is not defined are left out.

    Args:
        measures (Sequence[str] | str): Names in :data:`mmdiverse.measures.MEASURES`, which say
            what is more diverse; ``'all'``; or ``'default'``, one for each level and the
            rank-collapse residual. Of these two, a backbone without attention maps or matrices
            leaves out the measures of them, which a warning says. Those with an
            eigen-decomposition take much longer than the model.
        matrices (Sequence[str]): At weight level, among ``q``, ``k``, ``v``, ``proj``, ``fc1`` and
            ``fc2``. Defaults to the first three.
        per_layer (bool): Whether each layer is given too. Defaults to False.
        prefix (str, optional): Instead of ``'redundancy'``.

    Raises:
        TypeError: If ``measures`` is no list of names.
        ValueError: If a name is unknown; before the run, if no tap knows the backbone, or it lacks
            what a name stands for.
        RuntimeError: In the first evaluation, if there is no RedundancyHook.

    Example:
        >>> val_evaluator = [
        ...     dict(type='Accuracy', topk=(1, 5)),
        ...     dict(type='mmdiverse.RedundancyMetric'),
        ... ]
        >>> custom_hooks = [dict(type='mmdiverse.RedundancyHook')]
    """

    default_prefix = 'redundancy'

    def __init__(self, measures: Sequence[str] | str = 'default',
                 matrices: Sequence[str] = Weights().matrices, per_layer: bool = False,
                 prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        find_measures(measures)
        self.measures = measures
        self.matrices = matrices
        self.per_layer = per_layer
        self.meter: RedundancyMeter | None = None

    def attach(self, backbone: nn.Module) -> None:
        """Watch a backbone from :meth:`start` on.

        Args:
            backbone (nn.Module): One that a tap knows.

        Raises:
            ValueError: If no tap knows it, or it lacks what is measured.
        """
        self.detach()
        self.meter = RedundancyMeter(backbone, self.measures, self.matrices)

    def detach(self) -> None:
        """Let go of the backbone."""
        if self.meter is not None:
            self.meter.detach()
        self.meter = None

    def start(self) -> None:
        """Begin an evaluation."""
        self.meter.reset()
        self.meter.start()

    def measure_batch(self, model: nn.Module, data_batch: Any) -> None:
        """Look at a batch that comes next: at the model's own passes, or at better ones.

        Args:
            model (nn.Module): The model that is evaluated.
            data_batch (Any): What the data loader gave.
        """
        whole = model.module if is_model_wrapper(model) else model
        views = _split_views(data_batch) if isinstance(whole, BaseTTAModel) else [data_batch]
        model = inner_model(whole)
        parts = split_batch(*views) if all(isinstance(view, dict) for view in views) else [views]
        if len(parts) == 1:
            self.meter.start(views=len(views))
            return
        for part in parts:
            with self.meter.measuring(views=len(views)):
                for view in part:
                    self.meter.tap.backbone(model.data_preprocessor(view, False)['inputs'])

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Check that what led to these predictions was seen."""
        if self.meter is None:
            raise RuntimeError('RedundancyMetric was not shown the model; add '
                               "`dict(type='mmdiverse.RedundancyHook')` to `custom_hooks`")

    def evaluate(self, size: int) -> dict[str, float]:
        """The means over all images of all processes.

        Args:
            size (int): Images in the data set.
        """
        self.process(None, [])
        self.meter.stop()
        # As MMEngine, which collects results in turn: those beyond the last image are repeated.
        if get_rank() + (self.meter.images - 1) * get_world_size() >= size:
            self.meter.drop_last()
        metrics = {f'{self.prefix}/{name}': value
                   for name, value in name_summaries(self.meter, self.per_layer).items()}
        self.meter.reset()
        return metrics

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Not used: means are kept while images come in, and no results are."""
        raise NotImplementedError


def _split_views(data_batch: Any) -> list[Any]:
    """What test-time augmentation gives its model, view by view, as ``BaseTTAModel`` does."""
    if isinstance(data_batch, dict):
        count = len(next(iter(data_batch.values())))
        return [{key: value[view] for key, value in data_batch.items()} for view in range(count)]
    return [[value[view] for value in data_batch] for view in range(len(data_batch[0]))]
