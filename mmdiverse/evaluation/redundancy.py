"""Measures of redundancy of a model at work: their means over all images it sees."""
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..losses.base import off_diagonal
from ..measures import Measure, find_measures
from ..records import AttentionRecord, HeadRecord, Record, TokenRecord
from ..taps import build_tap
from ..taps.base import EMBED, Layer, Weights

#: Entries of maps or Gram matrices that are worked on at a time, on a CPU few enough for its cache.
CPU_BUDGET, GPU_BUDGET = 2**20, 2**26

#: Of each matrix a value for every block.
MatrixValues = dict[str, list[Tensor]]
#: Of a measure for every layer, for every pair of layers, or for every matrix.
Values = list[Tensor] | Tensor | MatrixValues


class RunningMean:
    """The mean over images, of which the last can be taken back.

    Distributed samplers repeat images, so that all processes have equally many: at most the last
    of each process.

    Args:
        start (Tensor | float): Zero, of the shape of an entry where it is known.
    """

    def __init__(self, start: Tensor | float = 0.) -> None:
        self._total = start
        self._last: Tensor | float = 0.
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Count images.

        Args:
            rows (Tensor): ``(B, ...)``, one entry for each.
        """
        if not len(rows):
            return
        rows = rows.double()
        self._total = self._total + self._last + rows[:-1].sum(0)
        self._last = rows[-1]
        self.count += len(rows)

    def drop_last(self) -> None:
        """Take the last image back."""
        self._last = torch.zeros_like(self._last)
        self.count -= 1

    def mean(self) -> Tensor:
        """The mean over the images of all processes."""
        total = (self._total + self._last).double()
        count = torch.tensor(float(self.count), dtype=torch.float64, device=total.device)
        all_reduce(total)
        all_reduce(count)
        return total / count


class RedundancyMeter:
    """Measures a backbone in every forward pass that it makes within :meth:`measuring`.

    Memory does not grow with the number of images. Values do not depend on how images are batched
    or shared out to processes, but for the rounding of the model itself.

    Args:
        backbone (nn.Module): One that a tap knows.
        measures (Sequence[str] | str): Names in :data:`mmdiverse.measures.MEASURES`, or ``'all'``.
        matrices (Sequence[str]): At weight level, among ``q``, ``k``, ``v``, ``proj``, ``fc1`` and
            ``fc2``. Defaults to the first three, as in a diversity term.
        embed (bool): Whether measures of tokens start with the input of the first block. Defaults
            to False.

    Attributes:
        measures (list[Measure]): Those of these names.
        tap (Tap): What reads the backbone.
        images (int): How many were measured, in this process.

    Raises:
        TypeError: If ``measures`` is no list of names.
        ValueError: If a name is unknown, no tap knows the backbone, or it lacks what is measured.
    """

    def __init__(self, backbone: nn.Module, measures: Sequence[str] | str = 'all',
                 matrices: Sequence[str] = Weights().matrices, embed: bool = False) -> None:
        self.measures = find_measures(measures)
        self.tap = build_tap(backbone)
        self.matrices = tuple(matrices)
        self.tap.check_weights(Weights(self.matrices))
        self._embed = [EMBED] if embed else []
        self._active = False
        self._subsample: Sequence[bool] | None = None
        # Of the pass that is measured now: what it was given, and what was captured.
        self._input_shape = torch.Size()
        self._seen: set[tuple[str, Layer]] = set()
        self._tokens: dict[Layer, Record] = {}
        self.reset()
        self._requests = {(measure.captured, layer) for measure in self.measures
                          if measure.captured != 'weight' for layer in self.layers(measure)}
        self.tap.attach(self._requests, self._on_capture)
        self._handles = [
            self.tap.backbone.register_forward_pre_hook(self._before_forward),
            self.tap.backbone.register_forward_hook(self._after_forward, always_call=True),
        ] if self._requests else []

    def layers(self, measure: Measure) -> list[Layer]:
        """The layers that a measure looks at."""
        blocks: list[Layer] = list(range(len(self.tap.blocks)))
        return self._embed + blocks if measure.captured == 'patch' else blocks

    def reset(self) -> None:
        """Forget all images."""
        self.images = 0
        self._last_chosen = True
        self._means: dict[tuple[str, Layer | None], RunningMean] = {}
        self._rows: dict[tuple[str, Layer | None], list[Tensor]] = {}

    def detach(self) -> None:
        """Remove every hook from the backbone."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._tokens.clear()
        self.tap.detach()

    @contextmanager
    def measuring(self, subsample: Sequence[bool] | None = None) -> Iterator[None]:
        """Measure the forward passes within the ``with`` block.

        Args:
            subsample (Sequence[bool], optional): Which images of the batch the dear measures look
                at. Defaults to all.
        """
        self.start(subsample)
        try:
            yield
        finally:
            self.stop()

    def start(self, subsample: Sequence[bool] | None = None) -> None:
        """Measure every forward pass from now on; see :meth:`measuring`."""
        self._active, self._subsample = True, subsample

    def stop(self) -> None:
        """Measure no more."""
        self._active = False

    def drop_last(self) -> None:
        """Take the last image back."""
        self.images -= 1
        subsampled = {measure.name for measure in self.measures if measure.subsampled}
        for (name, _), mean in self._means.items():
            if self._last_chosen or name not in subsampled:
                mean.drop_last()

    def compute(self) -> dict[str, Values]:
        """The values of all measures, over the images of all processes.

        Returns:
            dict[str, Tensor | list[Tensor] | dict[str, list[Tensor]]]: By name of the measure, in
            float64 on the CPU. At weight level, what :meth:`measure_weights` gives; of axis
            ``'layer pair'`` a tensor ``(L, L)``; otherwise for each of :meth:`layers` a tensor,
            with no dimension, ``(H,)`` or ``(H, H)``, as the axis says. NaN where a measure is not
            defined.

        Raises:
            RuntimeError: If no image was measured.
        """
        values: dict[str, Values] = {}
        at_work = [measure for measure in self.measures if measure.captured != 'weight']
        images = torch.tensor(self.images)
        all_reduce(images)
        if at_work and not images:
            raise RuntimeError('no image was measured: no forward pass of the backbone '
                               f'({type(self.tap.backbone).__name__}) was seen')
        for measure in at_work:
            if measure.axis == 'layer pair':
                values[measure.name] = self._finish(measure, None)
            else:
                values[measure.name] = [self._finish(measure, layer)
                                        for layer in self.layers(measure)]
        self._tokens.clear()
        weights = self.measure_weights()
        return {measure.name: {**values, **weights}[measure.name] for measure in self.measures}

    def _finish(self, measure: Measure, layer: Layer | None) -> Tensor:
        """The value of a measure in a layer."""
        mean = self._means.get((measure.name, layer))
        if mean is None:  # this process saw no image that the measure looks at
            heads = self.tap.count_heads(layer) if measure.level == 'attention' else 0
            layers = len(self.layers(measure))
            shape = {'layer': (), 'head': (heads, ), 'head pair': (heads, heads),
                     'layer pair': (layers, layers)}[measure.axis]
            mean = RunningMean(next(self.tap.backbone.parameters()).new_zeros(shape))
        value = mean.mean()
        return (value if measure.finish is None else measure.finish(value)).cpu()

    @torch.no_grad()
    def measure_weights(self, matrices: Sequence[str] | None = None, per_head: bool = False
                        ) -> dict[str, MatrixValues]:
        """The values of all measures at weight level, which take no images.

        Args:
            matrices (Sequence[str], optional): Defaults to those of the meter.
            per_head (bool): Whether the share of each head is a matrix of its own. Defaults to
                False.

        Returns:
            dict[str, dict[str, list[Tensor]]]: By name of measure and matrix, for each block a
            tensor, in float64 on the CPU; its first dimension are the heads if ``per_head``, and
            its last the components where the axis says so.

        Raises:
            RuntimeError: If a weight is sharded away.
            ValueError: If ``per_head`` and heads do not share a matrix.
        """
        measures = [measure for measure in self.measures if measure.captured == 'weight']
        matrices = tuple(matrices or self.matrices)
        self.tap.check_weights(Weights(matrices, per_head=per_head))
        values = {measure.name: {matrix: [] for matrix in matrices} for measure in measures}
        device = next(self.tap.backbone.parameters()).device
        for matrix in matrices if measures else ():
            for layer in range(len(self.tap.blocks)):
                record, = self.tap.records('weight', layer, Weights((matrix, ), per_head=per_head))
                for measure in measures:
                    with torch.autocast(device.type, enabled=False):
                        value = measure.function(record).double().cpu()
                    values[measure.name][matrix].append(value if per_head else value[0])
                self.tap.clear()
        return values

    def _before_forward(self, backbone: nn.Module, args: tuple) -> None:
        if self._active:
            self._rows.clear()  # of a batch that failed
            self._input_shape, self._seen = args[0].shape, set()
            self.tap.start()

    @torch.compiler.disable
    @torch.no_grad()
    def _on_capture(self, source: str, layer: Layer) -> None:
        """Measure heads at once, while they are in the cache, and let go of them."""
        record = self.tap.record(source, layer)
        self.tap.forget(source, layer)
        self._seen.add((source, layer))
        if source == 'patch':
            self._keep_tokens(record)
        else:
            # Made as the model works, measured in full precision.
            with torch.autocast(record.device.type, enabled=False):
                self._measure_heads(source, record)

    def _after_forward(self, backbone: nn.Module, args: tuple, output: Any) -> None:
        if not self.tap.stop():
            return
        if output is not None:
            self._measure_pass()

    @torch.compiler.disable
    @torch.no_grad()
    def _measure_pass(self) -> None:
        for request in sorted(self._requests - self._seen, key=str):
            self.tap.records(*request)  # says what was not reached
        with torch.autocast(next(self.tap.backbone.parameters()).device.type, enabled=False):
            self._measure_tokens()
        for key, rows in self._rows.items():
            self._means.setdefault(key, RunningMean()).add(torch.cat(rows))
        self._rows.clear()
        self._last_chosen = self._subsample is None or bool(self._subsample[-1])
        self.images += self._input_shape[0]

    def _keep_tokens(self, record: TokenRecord) -> None:
        """Copy tokens to where those of the pass before were.

        The memory of the model's own is then free for its next layer, as without a meter: to take
        new memory, and to give all of it back at the end, would slow the model down.
        """
        kept = self._tokens.get(record.layer)
        if kept is None or (kept.shape, kept.dtype, kept.device) != (record.shape, record.dtype,
                                                                     record.device):
            self._tokens[record.layer] = TokenRecord(record.vectors().clone(), record.layer)
        else:
            kept.vectors().copy_(record.vectors())

    def _measure_tokens(self) -> None:
        measures = [measure for measure in self.measures if measure.captured == 'patch']
        if not measures:
            return
        records = [self._tokens[layer] for layer in self.layers(measures[0])]
        for images in _slices(self._input_shape[0], sum(record.shape[1]**2 for record in records),
                              records[0].device):
            parts: list[Record] = []
            # Layers of one shape together: small operations cost their start.
            for _, group in itertools.groupby(records, lambda record: record.shape):
                layers = list(group)
                stacked = torch.stack([record.vectors()[images] for record in layers], dim=1)
                joined = TokenRecord(stacked.flatten(0, 1))
                dear = self._select_dear(measures, joined,
                                         self._dear(images).repeat_interleave(len(layers)))
                for measure in measures:
                    part = dear if measure.subsampled else joined
                    if measure.axis == 'layer' and part is not None:
                        rows = measure.function(part).unflatten(0, (-1, len(layers)))
                        for index, record in enumerate(layers):
                            self._add(measure, record.layer, rows[:, index])
                parts += [joined.select(slice(index, None, len(layers)))
                          for index in range(len(layers))]
            for measure in measures:
                if measure.axis == 'layer pair':
                    self._add(measure, None, measure.function(parts))

    def _measure_heads(self, source: str, record: AttentionRecord | HeadRecord) -> None:
        measures = [measure for measure in self.measures if measure.captured == source]
        num_images, *_, height, width = self._input_shape
        # Windows of one image are items of the batch, one after the other.
        items = record.shape[0] // num_images
        if any(measure.name == 'mean_attention_distance' for measure in measures):
            # A window is square.
            record.grid = find_grid(record.num_tokens - record.num_prefix,
                                    (1, 1) if items > 1 else (height, width))
        for measure in measures:
            self._rows.pop((measure.name, record.layer), None)  # of an earlier call of the block
        entries = items * record.shape[1] * record.num_tokens**2
        for images in _slices(num_images, entries, record.device):
            part = record.select(slice(images.start * items, images.stop * items))
            part = part.stored() if isinstance(part, AttentionRecord) else part
            dear = self._select_dear(measures, part, self._dear(images).repeat_interleave(items))
            for measure in measures:
                own = dear if measure.subsampled else part
                if own is not None:
                    rows = measure.function(own)
                    self._add(measure, record.layer, rows if items == 1 else
                              rows.unflatten(0, (-1, items)).mean(1))

    def _dear(self, images: slice) -> Tensor:
        """Which of some images the dear measures look at."""
        if self._subsample is None:
            return torch.ones(images.stop - images.start, dtype=torch.bool)
        return torch.tensor(self._subsample[images], dtype=torch.bool)

    @staticmethod
    def _select_dear(measures: Sequence[Measure], record: Record, items: Tensor) -> Record | None:
        """Some items of a record, where there are any and a measure asks for them."""
        wanted = items.any() and any(measure.subsampled for measure in measures)
        return record.select(items) if wanted else None

    def _add(self, measure: Measure, layer: Layer | None, rows: Tensor) -> None:
        self._rows.setdefault((measure.name, layer), []).append(rows)


def _slices(count: int, entries: int, device: torch.device) -> Iterator[slice]:
    """Images by as many as have few entries in all."""
    size = max(1, (CPU_BUDGET if device.type == 'cpu' else GPU_BUDGET) // entries)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def find_grid(num_patches: int, image_size: Sequence[int]) -> tuple[int, int]:
    """Height and width of the grid of square patches that an image is cut into.

    Args:
        num_patches (int): How many there are.
        image_size (Sequence[int]): Height and width of the image in pixels.

    Raises:
        ValueError: If there is no such grid.
    """
    height, width = image_size
    side = math.sqrt(height * width / num_patches)
    grid = round(height / side), round(width / side)
    if grid[0] * grid[1] != num_patches:
        raise ValueError(f'{num_patches} patches are no grid of square ones on an image of '
                         f'{height} x {width} pixels; leave `mean_attention_distance` out of '
                         '`measures`')
    return grid


def summarize(measure: Measure, values: Values) -> list[float]:
    """One number for each layer.

    Heads and matrices are averaged, pairs of different heads too; of pairs of layers those of
    neighbours are taken, and of a curve of energies the value at a quarter of the components.

    Args:
        measure (Measure): What was measured.
        values (Tensor | list[Tensor] | dict[str, list[Tensor]]): From
            :meth:`RedundancyMeter.compute`.

    Returns:
        list[float]: One for each layer, of pairs of layers one less. NaN where it is not defined.
    """
    if measure.axis == 'layer pair':
        return values.diagonal(1).tolist()
    if measure.axis == 'head pair':
        return [off_diagonal(value[None]).mean().item() for value in values]
    if measure.captured == 'weight':
        of_matrices = [[quarter_energy(value) for value in layers] if measure.axis == 'component'
                       else [value.item() for value in layers] for layers in values.values()]
        return [statistics.fmean(layer) for layer in zip(*of_matrices)]
    return [value.mean().item() for value in values]


def name_summaries(meter: RedundancyMeter, per_layer: bool = True) -> dict[str, float]:
    """What :func:`summarize` gives for all measures of a meter, with names for logs.

    Args:
        meter (RedundancyMeter): After at least one image, unless it measures weights alone.
        per_layer (bool): Whether each layer is named too. Defaults to True.

    Returns:
        dict[str, float]: ``'<measure>'``, the mean over layers, and ``'<measure>/<layer>'``, where
        the layer is ``'embed'``, ``'block_0'`` and so on, or ``'block_0-1'`` for neighbours. What
        is not defined is left out.

    Raises:
        RuntimeError: If no image was measured.
    """
    values = meter.compute()
    named = {}
    for measure in meter.measures:
        layers = meter.layers(measure)
        names = [layer if layer == EMBED else f'block_{layer}' for layer in layers]
        if measure.axis == 'layer pair':
            names = [f'{name}-{layer}' for name, layer in zip(names, layers[1:])]
        summary = summarize(measure, values[measure.name])
        known = {name: value for name, value in zip(names, summary) if not math.isnan(value)}
        if known:
            named[measure.name] = statistics.fmean(known.values())
        if per_layer:
            named.update({f'{measure.name}/{name}': value for name, value in known.items()})
    return named


def quarter_energy(energy: Tensor) -> float:
    """Share of the energy in the first quarter of the components.

    Args:
        energy (Tensor): Of the first k components, ``(K,)``.

    Returns:
        float: In [0, 1]; a quarter where no component stands out. Lower is more diverse.
    """
    return energy[math.ceil(len(energy) / 4) - 1].item()


@torch.no_grad()
def measure_redundancy(model: nn.Module, batches: Iterable[dict],
                       measures: Sequence[str] | str) -> dict[str, list[float]]:
    """Measure a classifier over batches of images.

    Args:
        model (nn.Module): A classifier with a ``backbone`` that a tap knows. It is left in
            evaluation mode.
        batches (Iterable[dict]): What a data loader gives.
        measures (Sequence[str] | str): Names in :data:`mmdiverse.measures.MEASURES`, or ``'all'``.

    Returns:
        dict[str, list[float]]: For each measure what :func:`summarize` gives.

    Raises:
        TypeError: If ``measures`` is no list of names.
        ValueError: If a name is unknown or no tap knows the backbone.
        RuntimeError: If there is no batch.
    """
    model.eval()
    meter = RedundancyMeter(model.backbone, measures)
    try:
        with meter.measuring():
            for data in batches:
                model(**model.data_preprocessor(data, False), mode='tensor')
        values = meter.compute()
    finally:
        meter.detach()
    return {measure.name: summarize(measure, values[measure.name]) for measure in meter.measures}
