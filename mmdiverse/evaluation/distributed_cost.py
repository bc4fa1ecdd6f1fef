"""What diversity terms cost on many GPUs, computed from what they cost on one device.

Computed, not measured: measured are the single-device costs that go in, and the tests check against
real processes how many matrices each takes and what is exchanged.
"""
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from mmengine.registry import init_default_scope
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.registry import MODELS
from torch import nn

from ..config import load_config, plain_twin
from ..losses.base import check_positive
from ..records import merge_weights
from ..report.markdown import markdown_table
from ..taps import Tap, build_tap
from ..terms import DiversityTerm
from .measurement import Result, count_bytes
from .scaling import Size, count_operations

#: Rows of the table by default: the fragments of these names, each alone and all together.
ARMS = ('patch', 'attention', 'weight', 'patch+attention+weight')
#: What two files of single-device costs must agree in to be used together.
SETTINGS = ('config', 'batch_size', 'img_size', 'precision', 'device', 'machine', 'threads')


@dataclass(frozen=True)
class Cluster:
    """Machines that train together, and how fast they exchange numbers.

    Attributes:
        gpus_per_node (int): GPUs of a machine, one process each. Defaults to 8.
        bandwidth_within (float): Bytes per second from a GPU to the next one of its machine.
            Defaults to 200e9.
        bandwidth_between (float): Bytes per second from a machine to the next one, all its links
            together. Defaults to 25e9.
        latency_within (float): Seconds until a message of no length has reached the next GPU of
            the machine. Defaults to 5e-6.
        latency_between (float): The same between two machines. Defaults to 15e-6.
        overlap (float): Part of the all-reduce of gradients that the backward pass hides, in
            [0, 1]. Defaults to 0.5.

    Raises:
        ValueError: If a number is out of range; the message names the option.
    """

    gpus_per_node: int = 8
    bandwidth_within: float = 200e9
    bandwidth_between: float = 25e9
    latency_within: float = 5e-6
    latency_between: float = 15e-6
    overlap: float = 0.5

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if key != 'overlap':
                check_positive(key, value)
        if not 0 <= self.overlap <= 1:
            raise ValueError(f'`overlap` must be in [0, 1], but got {self.overlap}')

    def all_reduce(self, num_bytes: int, processes: int) -> float:
        r"""Seconds to add up ``num_bytes`` over all processes: those of the faster of two ways.

        .. math::
            t_\text{ring} = 2\,\frac{p - 1}{p}\,\frac bB + 2 (p - 1)\,\alpha, \qquad
            t_\text{tree} = 2\,\frac bB + 2 \lceil\log_2 p\rceil\,\alpha

        NCCL chooses so too: rings for long messages, trees for short ones on many GPUs. ``B`` is
        the bandwidth of the slowest link; of the latencies ``α``, those between machines are
        counted apart. Every process takes one GPU, and machines are full but for the last.

        Args:
            num_bytes (int): ``b``, of each process.
            processes (int): ``p``, at least 1.
        """
        nodes = math.ceil(processes / self.gpus_per_node)
        bandwidth = self.bandwidth_within if nodes == 1 else self.bandwidth_between
        local = min(processes, self.gpus_per_node)
        ring = (num_bytes * (processes - 1) / processes / bandwidth
                + (processes - nodes) * self.latency_within + (nodes - 1) * self.latency_between)
        tree = (num_bytes / bandwidth + math.ceil(math.log2(local)) * self.latency_within
                + math.ceil(math.log2(nodes)) * self.latency_between)
        return 2 * min(ring, tree) if processes > 1 else 0.


@dataclass(frozen=True)
class WeightBatch:
    """Matrices of one shape that a term at weight level treats together.

    Attributes:
        matrices (int): How many.
        size (int): Entries of each.
        messages (tuple[int, ...]): Bytes of each all-reduce that the hook starts for them in a
            distributed step: one for the values of all matrices, and one for where power
            iterations ended. Of a term between two layers, whose matrices are not shared out,
            none.
        seconds (float): Of all matrices, on one device. Defaults to 0.
    """

    matrices: int
    size: int
    messages: tuple[int, ...]
    seconds: float = 0.

    def most(self, processes: int) -> int:
        """Matrices of the process that takes the most, for which the others wait."""
        return math.ceil(self.matrices / processes) if self.messages else self.matrices


@dataclass(frozen=True)
class TermCosts:
    """What terms add to a step on one device.

    Attributes:
        image_seconds (float): At patch and attention level, which every process pays for its own
            images.
        weights (tuple[WeightBatch, ...]): At weight level, which the processes share out.
    """

    image_seconds: float = 0.
    weights: tuple[WeightBatch, ...] = ()

    def __add__(self, other: 'TermCosts') -> 'TermCosts':
        return TermCosts(self.image_seconds + other.image_seconds, self.weights + other.weights)

    @property
    def seconds(self) -> float:
        """All together."""
        return self.image_seconds + sum(batch.seconds for batch in self.weights)


def predict(plain_seconds: float, gradient_bytes: int, terms: TermCosts, cluster: Cluster,
            processes: int) -> Result:
    r"""One training step with and without terms, on some processes with as many images each.

    .. math::
        t_\text{plain}(p) = t + (1 - o)\, r(g, p), \qquad
        t_\text{terms}(p) = t_\text{images} + \sum_b \frac{\lceil m_b / p\rceil}{m_b}\, t_b
        + \sum_b \sum_k r(k, p)

    with the all-reduce ``r`` of gradients ``g``, of which the part ``o`` is hidden, and the
    messages ``k`` of each batch of matrices, of which nothing is: they are sent in the forward
    pass. Gradients are as long with terms as without.

    Args:
        plain_seconds (float): ``t``, a plain step on one device.
        gradient_bytes (int): ``g``.
        terms (TermCosts): On one device.
        cluster (Cluster): Where.
        processes (int): ``p``.

    Returns:
        dict: ``processes``; ``communication_seconds``, the all-reduce of gradients that is not
        hidden; ``image_seconds`` and ``weight_seconds`` of the terms, ``exchange_seconds`` of
        their messages; ``matrices`` that the busiest process takes; ``overhead``, what terms add
        to a plain step, as a part of it; and ``unshared_overhead``, where every process
        evaluates all matrices.
    """
    communication = (1 - cluster.overlap) * cluster.all_reduce(gradient_bytes, processes)
    weight = sum(batch.seconds * batch.most(processes) / batch.matrices for batch in terms.weights)
    exchange = sum(cluster.all_reduce(message, processes)
                   for batch in terms.weights for message in batch.messages)
    step = plain_seconds + communication
    return dict(processes=processes, communication_seconds=communication,
                image_seconds=terms.image_seconds, weight_seconds=weight, exchange_seconds=exchange,
                matrices=sum(batch.most(processes) for batch in terms.weights),
                overhead=(terms.image_seconds + weight + exchange) / step,
                unshared_overhead=terms.seconds / step)


def build_on_meta(config: str) -> nn.Module:
    """The model of a config, plain, its parameters no more than shapes.

    Args:
        config (str): A path, or ``package::path``.

    Raises:
        FileNotFoundError: If there is no such config.
    """
    init_default_scope('mmpretrain')
    cfg = plain_twin(load_config(config))
    cfg.model.train_cfg = None
    # Not built there, where a Swin cannot read its own drop path rates.
    return MODELS.build(cfg.model).to('meta')


@torch.no_grad()
def weight_batches(terms: Sequence[dict], tap: Tap) -> tuple[WeightBatch, ...]:
    """What terms at weight level look at, and what the processes of a distributed run exchange.

    Args:
        terms (Sequence[dict]): Configs of :class:`~mmdiverse.terms.DiversityTerm`.
        tap (Tap): Of the backbone, which may be without memory.
    """
    batches = []
    for term in (DiversityTerm(**config) for config in terms):
        records = [record for layer in tap.resolve_layers(term.layers, 'weight')
                   for record in tap.records('weight', layer, term.weights)]
        for record in merge_weights(records):
            messages: tuple[int, ...] = ()
            if term.loss.num_records == 1:
                values = term.loss.forward(record)  # as called, but meta tensors know no autocast
                state = term.loss.state.get(record.key)
                messages = (count_bytes([values]),) + (
                    () if state is None else (count_bytes([state]),))
            matrices, rows, columns = record.shape
            batches.append(WeightBatch(matrices, rows * columns, messages))
    return tuple(batches)


def size_of(tap: Tap) -> Size:
    """The size of a backbone.

    Args:
        tap (Tap): Of a ``VisionTransformer``.

    Raises:
        ValueError: If the backbone is another, for which nobody has counted operations.
    """
    backbone = tap.backbone
    if not isinstance(backbone, VisionTransformer):
        raise ValueError('costs of one model are scaled to another (--also) for VisionTransformer '
                         f'alone, but got {type(backbone).__name__}')
    return Size(tokens=backbone.pos_embed.size(1), heads=backbone.layers[0].attn.num_heads,
                layers=len(tap.blocks), width=backbone.embed_dims)


def step_operations(size: Size) -> float:
    r"""Operations of a training step of a vision transformer, for one image.

    .. math:: 3 L (24 N D^2 + 4 N^2 D)

    Args:
        size (Size): Of the model.
    """
    num, dim = size.tokens, size.width
    return 3 * size.layers * (24 * num * dim**2 + 4 * num**2 * dim)


class MeasuredCosts:
    """Single-device costs, as ``tools/benchmarks/overhead.py`` writes them.

    Args:
        files (Mapping[str, dict]): Content of such files, by name; all of one machine, model and
            batch. Arms are those of all files, plain steps those of the first.

    Attributes:
        settings (dict): What was measured, and on what.
        plain_seconds (float): Median of all plain steps of the first file.

    Raises:
        ValueError: If a file holds something else, or they do not fit together.
    """

    def __init__(self, files: Mapping[str, Mapping]) -> None:
        self.settings: Result = {}
        self._arms: dict[str, Result] = {}
        plain: list[float] = []
        for name, file in files.items():
            try:
                settings = {key: file[key] for key in SETTINGS}
                arms = {arm: result for arm, result in file['results'].items()
                        if result['baseline'] == 'plain'}
                steps = [seconds for result in arms.values() for seconds in result['plain_seconds']]
            except (KeyError, TypeError) as error:
                raise ValueError(f'--overhead {name} should be a file of tools/benchmarks/'
                                 f'overhead.py, but cannot be read as such ({error!r})') from None
            if not steps:
                raise ValueError(f'--overhead {name} holds no plain steps')
            differ = sorted(key for key in self.settings if self.settings[key] != settings[key])
            if differ:
                raise ValueError(f'--overhead {name} was measured with another '
                                 f'{", ".join(differ)} than {next(iter(files))}')
            self.settings = settings
            plain = plain or steps
            self._arms = {**arms, **self._arms}
        self.plain_seconds = statistics.median(plain)

    def costs(self, arm: str, plain_seconds: float, batch_size: int, tap: Tap,
              scale: Size | None = None) -> TermCosts:
        """The costs of an arm, or of several joined by ``+``, at another batch size or model.

        Per image, patch and attention terms cost the same part of a plain step at any batch size.
        Weight terms cost the same seconds at any batch size, so a smaller part of a larger batch.

        Args:
            arm (str): Names of arms.
            plain_seconds (float): A plain step of the measured model with the new batch size.
            batch_size (int): The new batch size.
            tap (Tap): Of the model.
            scale (Size, optional): Size of the measured model, where the model is another:
                seconds grow with the operations that are counted for both.

        Raises:
            ValueError: If there is no such arm, its terms are at several levels, or the model
                cannot be scaled.
        """
        total = TermCosts()
        for name in arm.split('+'):
            level, terms = self._terms(name)
            seconds = (self._arms[name]['median_ratio'] - 1) * plain_seconds
            if scale is not None:
                device = torch.device(self.settings['device'])
                new, old = (sum(count_operations(term, size, device) for term in terms)
                            for size in (size_of(tap), scale))
                seconds *= new / old
            if level == 'image':
                total += TermCosts(seconds)
                continue
            seconds *= self.settings['batch_size'] / batch_size
            batches = weight_batches(terms, tap)
            entries = sum(batch.matrices * batch.size for batch in batches)
            total += TermCosts(weights=tuple(
                replace(batch, seconds=seconds * batch.matrices * batch.size / entries)
                for batch in batches))
        return total

    def _terms(self, arm: str) -> tuple[str, list[dict]]:
        """Level and terms of an arm."""
        if arm not in self._arms:
            raise ValueError(f'--arms: {arm!r} was not measured beside a plain step, only '
                             f'{", ".join(map(repr, self._arms))}')
        terms = self._arms[arm]['terms']
        levels = sorted({'weight' if term['on'] == 'weight' else 'image' for term in terms})
        if len(levels) > 1:
            raise ValueError(
                f'--arms: {arm!r} has terms at weight level and at others, which scale otherwise; '
                'measure them apart, as in tools/benchmarks/overhead.py --fragments '
                'official_patch official_attention official_weight')
        return levels[0], terms


def distributed_costs(measured: MeasuredCosts, cluster: Cluster, arms: Sequence[str] = ARMS,
                      also: Sequence[str] = (), processes: Sequence[int] = (1, 8, 64, 512),
                      batch_size: int = 128, step_seconds: float | None = None,
                      gradient_entry_bytes: int = 4) -> Result:
    """Costs of terms on some numbers of processes, for the measured model and maybe others.

    Args:
        measured (MeasuredCosts): What is known of one device.
        cluster (Cluster): Where to train.
        arms (Sequence[str]): What to compute costs of; names joined by ``+`` count together.
        also (Sequence[str]): Configs of further models, whose costs are scaled by counted
            operations.
        processes (Sequence[int]): How many, one GPU each.
        batch_size (int): Images of each process. Defaults to 128.
        step_seconds (float, optional): A plain step of the measured model with this batch size on
            the device to train on. Defaults to what the measured device takes.
        gradient_entry_bytes (int): Defaults to 4, those of float32.

    Returns:
        dict: ``assumptions``; ``measured``, the settings of the measurement; and ``models`` by
        config, each with ``scaled`` (whether by counted operations), ``parameters``,
        ``gradient_bytes``, ``plain_seconds``, and ``arms`` by name, each with ``seconds`` on one
        device, ``messages`` and the ``steps`` that :func:`predict` gives.

    Raises:
        ValueError: If a number is out of range, an arm is missing or mixed, or a model cannot be
            scaled.
    """
    plain_seconds = step_seconds
    if plain_seconds is None:
        plain_seconds = measured.plain_seconds * batch_size / measured.settings['batch_size']
    for key, value in (('batch_size', batch_size), ('step_seconds', plain_seconds),
                       ('gradient_bytes', gradient_entry_bytes), ('gpus', min(processes))):
        check_positive(key, value)
    models: dict[str, Result] = {}
    first: Size | None = None
    for config in (measured.settings['config'], *also):
        model = build_on_meta(config)
        tap = build_tap(model.backbone)
        ratio = step_operations(size_of(tap)) / step_operations(first) if first else 1.
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        entry = dict(scaled=first is not None, parameters=parameters,
                     gradient_bytes=parameters * gradient_entry_bytes,
                     plain_seconds=plain_seconds * ratio, arms={})
        for arm in arms:
            costs = measured.costs(arm, plain_seconds, batch_size, tap, first)
            entry['arms'][arm] = dict(
                seconds=costs.seconds,
                messages=[message for batch in costs.weights for message in batch.messages],
                steps=[predict(entry['plain_seconds'], entry['gradient_bytes'], costs, cluster,
                               count) for count in processes])
        models[config] = entry
        if also and first is None:
            first = size_of(tap)
    return dict(
        assumptions=dict(**asdict(cluster), batch_size=batch_size, step_seconds=step_seconds,
                         gradient_entry_bytes=gradient_entry_bytes),
        measured=measured.settings, models=models)


def costs_text(result: Result) -> str:
    """What went in, and two Markdown tables: overhead, and what sharing out matrices gives.

    Args:
        result (dict): From :func:`distributed_costs`.
    """
    return '\n\n'.join((_assumptions_text(result), _overhead_table(result), _sharing_table(result)))


def _assumptions_text(result: Result) -> str:
    measured, assumed = result['measured'], result['assumptions']
    step = 'the plain step of that device' if assumed['step_seconds'] is None else \
        f'a plain step of {_time(assumed["step_seconds"])}'
    return (f'Measured: {measured["machine"]} ({measured["device"]}, {measured["threads"]} '
            f'threads), {measured["precision"]}, batch {measured["batch_size"]}.\n'
            f'Assumed: {assumed["batch_size"]} images per GPU; {step}; '
            f'{assumed["gpus_per_node"]} GPUs per node; '
            f'{assumed["bandwidth_within"] / 1e9:g} GB/s within a node and '
            f'{assumed["bandwidth_between"] / 1e9:g} GB/s between nodes; latencies of '
            f'{assumed["latency_within"] * 1e6:g} and {assumed["latency_between"] * 1e6:g} '
            f'microseconds; {100 * assumed["overlap"]:g} % of the all-reduce of gradients hidden; '
            f'gradients of {assumed["gradient_entry_bytes"]} bytes an entry.')


def _overhead_table(result: Result) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, model in _models(result):
            steps = next(iter(model['arms'].values()))['steps']
            yield (name, 'plain step, and communication that is not hidden',
                   _time(model['plain_seconds']),
                   *(f'+ {_time(step["communication_seconds"])}' for step in steps))
            for arm, entry in model['arms'].items():
                yield (name, f'`{arm}`', _time(entry['seconds']),
                       *(_percent(step['overhead']) for step in entry['steps']))

    return markdown_table(('model', 'step', 'on one device', *_counts(result)), rows())


def _sharing_table(result: Result) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, model in _models(result):
            for arm, entry in model['arms'].items():
                if not entry['messages'] or any(step['image_seconds'] for step in entry['steps']):
                    continue
                yield (name, f'`{arm}`',
                       ', '.join(f'{message:,} bytes' for message in entry['messages']),
                       *(f'{step["matrices"]}: {_percent(step["overhead"])} '
                         f'({_percent(step["unshared_overhead"])})' for step in entry['steps']))

    caption = ('Matrices of the busiest process, overhead, and in brackets what it would be if '
               'every process evaluated all of them:')
    return caption + '\n\n' + markdown_table(
        ('model', 'weight terms', 'all-reduces of a step', *_counts(result)), rows())


def _models(result: Result) -> Iterator[tuple[str, Result]]:
    for config, model in result['models'].items():
        name = config.rpartition('/')[2].partition('_')[0]
        yield f'{name}{" (scaled)" * model["scaled"]}', model


def _counts(result: Result) -> list[str]:
    model = next(iter(result['models'].values()))
    counts = [step['processes'] for step in next(iter(model['arms'].values()))['steps']]
    return [f'{count} GPU{"s" * (count > 1)}' for count in counts]


def _time(seconds: float) -> str:
    return f'{seconds:.3g} s' if abs(seconds) >= 1 else f'{1e3 * seconds:.3g} ms'


def _percent(part: float) -> str:
    return f'{100 * part:.2f} %'
