"""Measures of redundancy of a model at work: their means over all images it sees."""
import itertools
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from mmpretrain.models.utils import to_2tuple
from torch import Tensor, nn

from ..image_mask import group_shapes
from ..losses.base import off_diagonal
from ..measures import Measure, find_measures
from ..precision import without_autocast
from ..records import AttentionRecord, HeadRecord, Record, TokenRecord
from ..taps import Tap, build_tap
from ..taps.base import EMBED, Layer, Weights, find_backbone
from ..taps.windows import WindowTap

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


@dataclass(frozen=True)
class Gap:
    """What of a model is not measured.

    Attributes:
        measures (list[str]): Names of the measures.
        layers (list[int]): The blocks.
        reason (str): Why.
        matrix (str): At weight level, the matrix; otherwise nothing.
    """

    measures: list[str]
    layers: list[int]
    reason: str
    matrix: str = ''

    def __str__(self) -> str:
        of = f' of {self.matrix}' if self.matrix else ''
        return f'{", ".join(self.measures)}{of} in {name_blocks(self.layers)}: {self.reason}'


class RedundancyMeter:
    """Measures a backbone in every forward pass that it makes within :meth:`measuring`.

    Memory does not grow with the number of images, but for a few numbers of each whose index is
    given. Values do not depend on how images are batched
    or shared out to processes, but for the rounding of the model itself.

    Blocks that lack what a measure is of are left out: those without attention maps at attention
    level, and those without a matrix, whose values are NaN, at weight level. A warning says which,
    and :meth:`gaps`.

    Args:
        backbone (nn.Module): One that a tap knows.
        measures (Sequence[str] | str): Names in :data:`mmdiverse.measures.MEASURES`; or ``'all'``
            or ``'default'``, but for those of a level that no block has.
        matrices (Sequence[str] | str): At weight level, among ``q``, ``k``, ``v``, ``proj``,
            ``fc1`` and ``fc2``, or ``'all'`` that there are. Defaults to the first three, as in a
            diversity term.
        embed (bool): Whether measures of tokens start with the input of the first block. Defaults
            to False.

    Attributes:
        measures (list[Measure]): Those of these names.
        matrices (tuple[str, ...]): Names of the matrices.
        tap (Tap): What reads the backbone.
        blocks_with_maps (list[int]): Those that attention level is of.
        images (int): How many were measured, in this process.

    Raises:
        TypeError: If ``measures`` is no list of names.
        ValueError: If a name is unknown, no tap knows the backbone, or no block has what a measure
            asked for by name is of.
    """

    def __init__(self, backbone: nn.Module, measures: Sequence[str] | str = 'all',
                 matrices: Sequence[str] | str = Weights().matrices, embed: bool = False) -> None:
        self.measures = find_measures(measures)
        self.tap = build_tap(backbone)
        self._without_maps = self._refused(self.tap.check_attention, self.tap.blocks)
        self.blocks_with_maps = [layer for layer in range(len(self.tap.blocks))
                                 if layer not in self._without_maps]
        self.matrices = self._find_matrices(matrices)
        #: Blocks whose patches have no distances, and why.
        self._without_grid: dict[int, str] = {}
        self._left_out: list[Gap] = []
        self._leave_out(by_name=not isinstance(measures, str))
        for gap in self.gaps():
            print_log(f'not measured of {type(self.tap.backbone).__name__}: {gap}', 'current',
                      logging.WARNING)
        self._embed = [EMBED] if embed else []
        self._active = False
        self._subsample: Sequence[bool] | None = None
        self._views = 1
        self._indices: Sequence[int] | None = None
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

    @staticmethod
    def _refused(check: Callable[..., None], blocks: Iterable) -> dict[int, str]:
        """The blocks that a tap refuses, with its reason, but for what it says of terms."""
        refused = {}
        for layer, block in enumerate(blocks):
            try:
                check(block)
            except ValueError as error:
                refused[layer] = str(error).partition(';')[0]
        return refused

    def _find_matrices(self, names: Sequence[str] | str) -> tuple[str, ...]:
        """Check names of matrices, each of which some block must have, if any has one."""
        blocks = [self.tap.points_of(block).matrices for block in self.tap.blocks]
        known = tuple(dict.fromkeys(itertools.chain(*blocks)))
        if names == 'all' or not known:
            return known
        for name in names:
            if name not in known:
                self.tap.check_weights(Weights((name, )))
        return tuple(names)

    def _without(self, matrix: str, per_head: bool = False) -> dict[int, str]:
        """The blocks that lack a matrix, or shares of heads in it, and why."""
        weights = Weights((matrix, ), per_head=per_head)
        return self._refused(lambda layer: self.tap.check_block_weights(layer, weights),
                             range(len(self.tap.blocks)))

    def blocks_with(self, matrix: str, per_head: bool = False) -> list[int]:
        """The blocks that have a matrix, or shares of heads in it."""
        without = self._without(matrix, per_head)
        return [layer for layer in range(len(self.tap.blocks)) if layer not in without]

    def _leave_out(self, by_name: bool) -> None:
        """Leave out measures of a level that no block has."""
        blocks = list(range(len(self.tap.blocks)))
        lacking = {}
        if not self.blocks_with_maps:
            lacking['attention'] = self._without_maps[0]
        if not self.matrices:
            lacking['weight'] = self._refused(
                lambda _: self.tap.check_weights(Weights()), blocks[:1])[0]
        for level, reason in lacking.items():
            names = [measure.name for measure in self.measures if measure.level == level]
            if names and by_name:
                raise ValueError(f'{names} of `measures` cannot be had: {reason}; leave them out')
            if names:
                self._left_out.append(Gap(names, blocks, reason))
        self.measures = [measure for measure in self.measures if measure.level not in lacking]

    def gaps(self, shared: Sequence[str] = ()) -> list[Gap]:
        """What is not measured, of distances as far as forward passes have shown.

        Args:
            shared (Sequence[str]): Matrices in which the share of each head is measured too.
        """
        heads, weights = ([measure.name for measure in self.measures if measure.level == level]
                          for level in ('attention', 'weight'))
        gaps = [*self._left_out, *_gaps(heads, self._without_maps),
                *_gaps(['mean_attention_distance'], self._without_grid)]
        for matrix in self.matrices:
            whole = {layer: f'{type(self.tap.blocks[layer]).__name__} has no such matrix'
                     for layer in self._without(matrix)}
            gaps += _gaps(weights, whole, matrix)
            if matrix in shared:
                gaps += _gaps(weights, {
                    layer: reason for layer, reason in self._without(matrix, per_head=True).items()
                    if layer not in whole}, f'heads in {matrix}')
        return gaps

    def layers(self, measure: Measure) -> list[Layer]:
        """The layers that a measure looks at."""
        blocks: list[Layer] = list(range(len(self.tap.blocks)))
        if measure.level == 'attention':
            return [*self.blocks_with_maps]
        return self._embed + blocks if measure.captured == 'patch' else blocks

    def reset(self) -> None:
        """Forget all images."""
        self.images = 0
        self._without_grid.clear()
        self._last_chosen = True
        self._means: dict[tuple[str, Layer | None], RunningMean] = {}
        # Of images with an index, their indices with their rows; and all shapes of their tokens.
        self._kept: dict[tuple[str, Layer | None], list[tuple[list[int], Tensor]]] = {}
        self._token_shapes: dict[Layer, set[tuple[int, int]]] = {}
        self._rows: dict[tuple[str, Layer | None], list[Tensor]] = {}
        #: Of a batch, the sums over the views that were seen.
        self._of_views: dict[tuple[str, Layer | None], Tensor] = {}
        self._views_seen = 0

    def detach(self) -> None:
        """Remove every hook from the backbone."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._tokens.clear()
        self.tap.detach()

    @contextmanager
    def measuring(self, subsample: Sequence[bool] | None = None,
                  indices: Sequence[int] | None = None, views: int = 1) -> Iterator[None]:
        """Measure the forward passes within the ``with`` block.

        Args:
            subsample (Sequence[bool], optional): Which images of the batch the dear measures look
                at. Defaults to all.
            indices (Sequence[int], optional): Of the images of the batch, under which
                :meth:`per_image` has their values. Defaults to none, and no memory of single
                images.
            views (int): How many forward passes one after the other are of the same images, as in
                test-time augmentation: an image counts once, with the mean of its views. Defaults
                to 1.
        """
        self.start(subsample, indices, views)
        try:
            yield
        finally:
            self.stop()

    def start(self, subsample: Sequence[bool] | None = None,
              indices: Sequence[int] | None = None, views: int = 1) -> None:
        """Measure every forward pass from now on; see :meth:`measuring`."""
        self._active, self._subsample, self._indices = True, subsample, indices
        self._views = views
        self._of_views.clear()  # of a batch that failed
        self._views_seen = 0

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

    def per_image(self, count: int) -> dict[str, Tensor]:
        """What every image with an index says of the measures that take images.

        The mean over images is what :func:`summarize` gives, and their spread tells how far that
        is from the mean over all images that there could be. Where a measure is no mean over
        images, as linear CKA, it is made linear in these around its value.

        Args:
            count (int): How many images there are, of which some may not have been seen.

        Returns:
            dict[str, Tensor]: By name of the measure ``(count, L)``, of pairs of layers ``L - 1``,
            in float64 on the CPU. NaN for images that it did not look at.
        """
        found = {}
        for measure in self.measures:
            if measure.captured == 'weight':
                continue
            layers = [None] if measure.axis == 'layer pair' else self.layers(measure)
            columns = []
            for layer in layers:
                parts = self._kept.get((measure.name, layer), [])
                width = len(self.layers(measure)) - 1 if layer is None else 1
                column = torch.full((count, width), torch.nan, dtype=torch.float64)
                if parts:
                    rows = torch.cat([rows for _, rows in parts]).cpu()
                    indices = [index for own, _ in parts for index in own]
                    column[indices] = _linearise(measure, rows).reshape(len(rows), -1)
                columns.append(column)
            found[measure.name] = torch.cat(columns, dim=1)
        return found

    def shapes(self) -> dict[str, list[list[int | None] | None]]:
        """Shapes of what was measured.

        Returns:
            dict[str, list]: As ``'tokens'`` the number of patch tokens, None where images differ
            in it, and of channels, for every layer whose tokens were seen; of every matrix its rows
            and columns for every block, None where it lacks the matrix.
        """
        shapes: dict[str, list[list[int | None] | None]] = {'tokens': []}
        for layer in [*self._embed, *range(len(self.tap.blocks))]:
            if seen := self._token_shapes.get(layer):
                numbers, channels = zip(*seen)
                shapes['tokens'].append([numbers[0] if len(seen) == 1 else None, channels[0]])
        for matrix in self.matrices:
            has = self.blocks_with(matrix)
            shapes[matrix] = [self._matrix_shape(matrix, layer) if layer in has else None
                              for layer in range(len(self.tap.blocks))]
        return shapes

    def _matrix_shape(self, matrix: str, layer: int) -> list[int]:
        record, = self.tap.records('weight', layer, Weights((matrix, )))
        self.tap.clear()
        return list(record.shape[1:])

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
            its last the components where the axis says so. NaN for a block without the matrix.

        Raises:
            RuntimeError: If a weight is sharded away.
            ValueError: If no block has a matrix, or with ``per_head`` no heads share it.
        """
        measures = [measure for measure in self.measures if measure.captured == 'weight']
        matrices = tuple(matrices or self.matrices)
        values = {measure.name: {matrix: [] for matrix in matrices} for measure in measures}
        device = next(self.tap.backbone.parameters()).device
        for matrix in matrices if measures else ():
            weights = Weights((matrix, ), per_head=per_head)
            has = self.blocks_with(matrix, per_head)
            self.tap.check_weights(weights, has or None)
            for layer in range(len(self.tap.blocks)):
                if layer not in has:
                    for measure in measures:
                        heads = (self.tap.count_heads(layer), ) if per_head else ()
                        component = (1, ) if measure.axis == 'component' else ()
                        values[measure.name][matrix].append(torch.full(
                            heads + component, torch.nan, dtype=torch.float64))
                    continue
                record, = self.tap.records('weight', layer, weights)
                for measure in measures:
                    with without_autocast(device):
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
        records = [self.tap.record(source, layer)] if source == 'patch' else \
            self.tap.records(source, layer)
        self.tap.forget(source, layer)
        self._seen.add((source, layer))
        if source == 'patch':
            self._keep_tokens(*records)
        elif records:  # windows of single tokens say nothing
            # Made as the model works, measured in full precision.
            with without_autocast(records[0].device):
                self._measure_heads(source, records)

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
        with without_autocast(next(self.tap.backbone.parameters()).device):
            self._measure_tokens()
        for key, parts in self._rows.items():
            rows = torch.cat(parts)
            total = self._of_views.get(key)
            self._of_views[key] = rows if total is None else total + rows.double()
        self._rows.clear()
        self._views_seen += 1
        if self._views_seen < self._views:
            return
        for key, total in self._of_views.items():
            rows = total / self._views
            self._means.setdefault(key, RunningMean()).add(rows)
            self._keep(*key, rows)
        self._of_views.clear()
        self._views_seen = 0
        self._last_chosen = self._subsample is None or bool(self._subsample[-1])
        self.images += self._input_shape[0]

    def _keep(self, name: str, layer: Layer | None, rows: Tensor) -> None:
        """Keep what of single images tells the spread of a measure, if they have indices."""
        if self._indices is None:
            return
        measure = next(measure for measure in self.measures if measure.name == name)
        indices = [index for place, index in enumerate(self._indices)
                   if not measure.subsampled or self._subsample is None or self._subsample[place]]
        # What becomes a value only with the mean over images is kept whole until that is known.
        rows = (rows if measure.finish else _per_item(measure, rows)).double()
        self._kept.setdefault((name, layer), []).append((indices, rows))

    def _keep_tokens(self, record: TokenRecord) -> None:
        """Copy tokens to where those of the pass before were.

        The memory of the model's own is then free for its next layer, as without a meter: to take
        new memory, and to give all of it back at the end, would slow the model down.
        """
        self._token_shapes.setdefault(record.layer, set()).add(tuple(record.shape[1:]))
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

    def _measure_heads(self, source: str, records: Sequence[AttentionRecord | HeadRecord]) -> None:
        """Measure a layer, of which windows with equally many tokens are a record."""
        measures = [measure for measure in self.measures if measure.captured == source]
        num_images, *_, height, width = self._input_shape
        layer, windows = records[0].layer, sum(record.shape[0] for record in records)
        for measure in measures:
            self._rows.pop((measure.name, layer), None)  # of an earlier call of the block
        if any(measure.name == 'mean_attention_distance' for measure in measures):
            self._find_distances(records, (height, width))
        for record in records:
            # Windows of one image are items of the batch, one after the other.
            items = record.shape[0] // num_images
            entries = items * record.shape[1] * max(record.num_tokens**2, record.shape[2])
            parts: dict[str, list[Tensor]] = {}
            for images in _slices(num_images, entries, record.device):
                part = record.select(slice(images.start * items, images.stop * items))
                part = part.stored() if isinstance(part, AttentionRecord) else part
                dear = self._select_dear(measures, part,
                                         self._dear(images).repeat_interleave(items))
                for measure in measures:
                    own = dear if measure.subsampled else part
                    if own is not None:
                        parts.setdefault(measure.name, []).append(
                            measure.function(own).unflatten(0, (-1, items)).mean(1))
            for name, rows in parts.items():
                share = torch.cat(rows) * (record.shape[0] / windows)
                before = self._rows.get((name, layer))
                self._rows[name, layer] = [share if before is None else before[0] + share]

    def _find_distances(self, records: Sequence[AttentionRecord], image_size: Sequence[int]
                        ) -> None:
        """Note the grid on which the attention of a layer has distances, or why there is none."""
        try:
            if len(records) > 1:
                raise ValueError('windows at the edge are padded, and hold fewer tokens')
            record, = records
            if record.shape[2] != record.num_tokens**2:
                keys = record.shape[2] // record.num_tokens
                raise ValueError(f'queries ({record.num_tokens}) and keys ({keys}) are not the '
                                 'same tokens')
            record.grid = find_key_grid(self.tap, record, self._input_shape[0], image_size)
        except ValueError as error:
            self._without_grid[records[0].layer] = str(error)

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


def _gaps(measures: list[str], reasons: dict[int, str], matrix: str = '') -> list[Gap]:
    """Gaps of blocks, those with the same reason together."""
    return [Gap(measures, [layer for layer in reasons if reasons[layer] == reason], reason, matrix)
            for reason in dict.fromkeys(reasons.values()) if measures]


def name_blocks(blocks: Sequence[int]) -> str:
    """Such as ``blocks 0, 3 to 5``."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    parts = [part for run in runs for part in (
        [f'{run[0]} to {run[-1]}'] if len(run) > 2 else [str(block) for block in run])]
    return f'block{"s" * (len(blocks) > 1)} {", ".join(parts)}'


def find_key_grid(tap: Tap, record: AttentionRecord, num_images: int, image_size: Sequence[int]
                  ) -> tuple[int, int]:
    """Height and width of the grid of patches that attention is to, in an image or in a window.

    Args:
        tap (Tap): What read the record.
        record (AttentionRecord): Of some images.
        num_images (int): How many, of which each may have several windows.
        image_size (Sequence[int]): Height and width of an image in pixels.

    Raises:
        ValueError: If it is not known where the patches are.
    """
    if not tap.row_by_row:
        raise ValueError('tokens do not stand row by row')
    keys = record.shape[2] // record.num_tokens
    num = keys - record.num_prefix
    try:
        size = tap.patch_size(record.layer)
    except NotImplementedError:
        size = None
    if size is None or keys != record.num_tokens:  # pooled ones lie over all the image
        if record.shape[0] > num_images:
            raise ValueError('it is not known where the tokens of a window are')
        return find_grid(num, image_size)
    if size[0] != size[1]:
        raise ValueError(f'a token stands for {size[0]} x {size[1]} pixels, which are no square')
    grid = tuple(-(-side // step) for side, step in zip(image_size, size))
    if record.shape[0] > num_images:
        window = tap.window(tap.blocks[record.layer], grid) if isinstance(tap, WindowTap) else None
        grid = tuple(to_2tuple(window[0])) if window else (0, 0)
    if math.prod(grid) != num:
        raise ValueError(f'it is not known where the {num} patches are')
    return grid


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
    if math.prod(grid) != num_patches:
        raise ValueError(f'{num_patches} patches are no grid of square ones on an image of '
                         f'{height} x {width} pixels')
    return grid


def summarize(measure: Measure, values: Values) -> list[float]:
    """One number for each layer.

    Heads and matrices are averaged, pairs of different heads too; of pairs of layers those of
    neighbours are taken, and of a curve of energies the value at a quarter of the components.
    Matrices that a block lacks are left out.

    Args:
        measure (Measure): What was measured.
        values (Tensor | list[Tensor] | dict[str, list[Tensor]]): From
            :meth:`RedundancyMeter.compute`.

    Returns:
        list[float]: One for each layer, of pairs of layers one less. NaN where it is not defined.
    """
    if measure.axis == 'layer pair':
        return _per_item(measure, values[None])[0].tolist()
    if measure.captured == 'weight':
        of_matrices = [[quarter_energy(value) for value in layers] if measure.axis == 'component'
                       else [value.item() for value in layers] for layers in values.values()]
        return [_mean_of_known(layer) for layer in zip(*of_matrices)]
    return [_per_item(measure, value[None]).item() for value in values]


def _per_item(measure: Measure, rows: Tensor) -> Tensor:
    """One number for each of ``(B, ...)`` values of a layer, of pairs of layers ``(B, L - 1)``."""
    if measure.axis == 'layer pair':
        return rows.diagonal(1, -2, -1)
    if measure.axis == 'head pair':
        return off_diagonal(rows).mean(1)
    return rows.reshape(len(rows), -1).mean(1)


def _linearise(measure: Measure, rows: Tensor) -> Tensor:
    """What each of ``(B, ...)`` images says of a layer: made linear where it is no mean of them."""
    if measure.finish is None:
        return rows  # summed up when they were kept
    mean = rows.mean(0)

    def value(mean: Tensor) -> Tensor:
        return _per_item(measure, measure.finish(mean)[None]).flatten()

    slopes = torch.autograd.functional.jacobian(value, mean).flatten(1)
    # What is not defined between two layers, or heads, has no part in what is between others.
    distances = (rows - mean).flatten(1)
    return value(mean) + distances.nan_to_num() @ slopes.nan_to_num().mT


def _mean_of_known(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


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
        float: In [0, 1]; about a quarter where all components are equally strong, and more of
        random weights: see :func:`~mmdiverse.measures.noise_quarter_energy`. Lower is more diverse.
    """
    return energy[math.ceil(len(energy) / 4) - 1].item()


def split_batch(*views: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Take a batch apart where its images have several shapes.

    The data preprocessor would pad them to one, and what is measured would depend on what else is
    in the batch.

    Args:
        views (dict): What a data loader gives, with ``inputs``; under test-time augmentation, that
            of every view.

    Returns:
        list[list[dict]]: Of each part all views. The last part ends with the last image.
    """
    images = [view.get('inputs') for view in views]
    # All in one tensor have one shape; several views that a model takes at once are not ours.
    if not all(isinstance(inputs, (list, tuple)) and all(
            isinstance(image, Tensor) and image.dim() == 3 for image in inputs)
            for inputs in images):
        return [[*views]]
    groups = group_shapes(*images)
    if len(groups) == 1:
        return [[*views]]
    return [[{key: _pick(value, places, len(view['inputs'])) for key, value in view.items()}
             for view in views] for places in groups]


def _pick(value: Any, places: Sequence[int], count: int) -> Any:
    """What belongs to some images of a batch, of a value that may have an item for each."""
    each = isinstance(value, (list, tuple)) and len(value) == count
    return [value[place] for place in places] if each else value


@torch.no_grad()
def measure_redundancy(model: nn.Module, batches: Iterable[dict],
                       measures: Sequence[str] | str) -> dict[str, list[float]]:
    """Measure a classifier over batches of images, which are not padded to each other's shapes.

    Args:
        model (nn.Module): A classifier whose backbone a tap knows. It is left in evaluation mode.
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
    meter = RedundancyMeter(find_backbone(model), measures)
    try:
        with meter.measuring():
            for data in batches:
                for part, in split_batch(data):
                    model(**model.data_preprocessor(part, False), mode='tensor')
        values = meter.compute()
    finally:
        meter.detach()
    return {measure.name: summarize(measure, values[measure.name]) for measure in meter.measures}
