"""How time and memory of one diversity term grow with the size of a model."""
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import budget_of, softmax_maps
from ..records import AttentionRecord
from ..taps.base import EMBED, Layer, Place, Tap, split_heads
from ..taps.vit import POINTS
from ..terms import DiversityTerm
from .measurement import Result, peak_memory, quartiles, time_call
from .overhead import term_arms


@dataclass(frozen=True)
class Size:
    """Size of a vision transformer; by default a DeiT-S at 224 pixels.

    Attributes:
        tokens (int): ``N``, the class token and the patches.
        heads (int): ``H``.
        layers (int): ``L``.
        width (int): Channels, ``H d``.
    """

    tokens: int = 197
    heads: int = 6
    layers: int = 12
    width: int = 384


AXES: dict[str, tuple[int, ...]] = {
    'tokens': (197, 401, 785, 1025, 2049, 4097),
    'heads': (3, 6, 12),
    'layers': (6, 12, 24),
    'width': (192, 384, 768),
}
#: What the cost of a level depends on.
LEVEL_AXES = {'patch': ('tokens', 'width', 'layers'),
              'attention': ('tokens', 'heads', 'width', 'layers'),
              'weight': ('width', 'layers')}


def sizes_along(axis: str, values: Sequence[int], base: Size = Size()) -> list[Size]:
    """Sizes that differ along one axis.

    More heads come with the same channels each, as from DeiT-Ti to DeiT-B; with more width the
    heads stay as many, and their channels grow.
    """
    sizes = [replace(base, **{axis: value}) for value in values]
    if axis == 'heads':
        sizes = [replace(size, width=base.width // base.heads * size.heads) for size in sizes]
    return sizes


class SyntheticTap(Tap):
    """Stands in for a backbone: records come from random leaf tensors of any size.

    Args:
        size (Size): Of the backbone.
        batch_size (int): Images.
        device (torch.device): Where the tensors are.
        stored_maps (bool): Whether attention gives its maps, as where it is not fused, instead of
            queries and keys. Defaults to False.
        dtype (torch.dtype): Of the tensors; their values are float32's. Defaults to that.

    Attributes:
        leaves (dict): What was captured, by source and layer; made when first read.
    """

    points = POINTS

    def __init__(self, size: Size, batch_size: int, device: torch.device,
                 stored_maps: bool = False, dtype: torch.dtype = torch.float32) -> None:
        self.size = size
        self.batch_size = batch_size
        self.device = device
        self.stored_maps = stored_maps
        self.dtype = dtype
        self.leaves: dict[tuple[str, Layer], Tensor] = {}
        super().__init__(nn.Identity())

    def find_blocks(self) -> list[nn.Module]:
        return [nn.Module() for _ in range(self.size.layers)]

    def count_prefix_tokens(self) -> int:
        return 1

    def leaf(self, source: str, layer: Layer) -> Tensor:
        """The tensor that a layer gives: its tokens, queries, keys and values, or their weight."""
        if (source, layer) not in self.leaves:
            width = self.size.width
            shape = {'patch': (self.batch_size, self.size.tokens, width),
                     'maps': (self.batch_size, self.size.tokens, 3 * width),
                     'weight': (3 * width, width)}[source]
            index = 0 if layer == EMBED else layer + 1
            generator = torch.Generator().manual_seed(index)
            tensor = torch.randn(shape, generator=generator).to(self.device, self.dtype)
            self.leaves[source, layer] = tensor.requires_grad_()
        return self.leaves[source, layer]

    def _read(self, source: str, layer: Layer) -> Tensor:
        return self.leaf(source, layer)

    def _stack(self, layer: int, path: str, places: list[Place]) -> Tensor:
        return self.leaf('weight', layer).view(3, -1, self.size.width)

    def attention_record(self, block: nn.Module, captured: Tensor, layer: int) -> AttentionRecord:
        q, k, _ = split_heads(captured, self.size.heads)
        scale = q.size(-1)**-0.5
        if self.stored_maps:
            return AttentionRecord(layer, maps=softmax_maps(q, k, scale))
        return AttentionRecord(layer, q=q, k=k, scale=scale)

    def backward(self, term: DiversityTerm) -> None:
        """Evaluate a term and its gradients, which are added to those of the leaves."""
        try:
            term.evaluate(self).backward()
        finally:
            self.clear()


#: What an entry costs that is read, changed and written, and what an exponential costs, in
#: operations of a matrix product.
PASS, EXPONENTIAL = 8, 40


def count_operations(term: dict[str, Any], size: Size, device: torch.device) -> float:
    r"""Operations of a term's forward and backward pass for one image.

    A product of matrices counts :math:`2 m n k`, and twice that backward. For ``M`` vectors in
    ``D`` dimensions, with :math:`K = \min(M, D)`, the leading parts are

    =====================================  ======================================================
    linear (rank collapse, contrastive,    :math:`M D`
    a step of power iteration)
    smaller Gram matrix (cosine, soft      :math:`M D K`, and :math:`K^3` for eigenvalues
    orthogonality, exact eigenvalues)
    all pairs (energy, separation,         :math:`M^2 D`, and :math:`M^3` for a determinant
    determinant)
    heads, any loss                        :math:`H N^2 (6 d + 4 H)`, and another
                                           :math:`2 H N^2 d` where maps are computed twice
    =====================================  ======================================================

    Args:
        term (dict): Config of a :class:`~mmdiverse.terms.DiversityTerm`.
        size (Size): Of the backbone.
        device (torch.device): A GPU has larger blocks of maps than a CPU.

    Returns:
        float: Operations, up to a factor that all sizes share.
    """
    layers = size.layers if term['on'] == 'weight' or term.get('layers') == 'all' else 1
    if term['on'] == 'attention':
        heads = DiversityTerm(**term).loss.num_records * size.heads
        return layers * _attention_operations(heads, size, device)
    num = size.tokens - 1 if term['on'] == 'patch' else size.width
    return layers * _vector_operations(term, num, size.width)


def _attention_operations(heads: int, size: Size, device: torch.device) -> float:
    entries = heads * size.tokens**2
    depth = size.width // size.heads
    fits = entries <= budget_of(device).image
    maps = 2 * depth + 3 * PASS + EXPONENTIAL
    gradients = 4 * depth + 4 * PASS
    return entries * (maps * (1 if fits else 2) + gradients + 4 * heads)


def _vector_operations(term: dict[str, Any], num: int, dim: int) -> float:
    smaller = min(num, dim)
    linear = 12 * PASS * num * dim
    gram = 6 * num * dim * smaller + 6 * PASS * smaller**2
    pairs = 6 * num**2 * dim + 20 * PASS * num**2
    match term['type']:
        case 'ConditionalOrthogonalityLoss' | 'SRIPLoss':
            # In float64, with eigenvectors, for the gradient.
            return linear if 'method' in term else linear + gram + 40 * smaller**3
        case 'CosineLoss' | 'SoftOrthogonalityLoss':
            return linear + gram
        case 'CrossCosineLoss':
            return linear + (pairs if num <= 2 * dim else 2 * gram)
        case 'HypersphericalEnergyLoss' | 'HypersphericalSeparationLoss':
            return linear + pairs
        case 'GramDeterminantLoss':  # in float64
            return linear + pairs + 8 * num**3
        case 'ContrastiveLoss' | 'RankCollapseLoss':
            return linear
    raise ValueError(f'no operation count is written down for {term["type"]}')


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    r"""Exponent of a power law, by least squares of logarithms.

    .. math:: y \propto x^p
    """
    return statistics.linear_regression([log(value) for value in x],
                                        [log(value) for value in y]).slope


def scaling_terms(axis: str) -> dict[str, dict[str, Any]]:
    """The terms whose cost depends on an axis, by name, each with its defaults.

    On the axis of layers, terms look at all of them; else at the layers of their defaults: one at
    patch and attention level, all at weight level. Terms between two layers have no such axis,
    and losses of gradients need a model of their own.
    """
    terms = {}
    for arm in term_arms():
        term, = arm.terms
        loss = DiversityTerm(**term).loss
        if axis in LEVEL_AXES[term['on']] and not loss.of_gradients and \
                (axis != 'layers' or loss.num_records == 1):
            terms[arm.name] = dict(term, layers='all') if axis == 'layers' else term
    return terms


def measure_axis(term: dict[str, Any], axis: str, values: Sequence[int], batch_size: int,
                 device: torch.device, repeats: int, base: Size = Size(),
                 min_seconds: float = 0.2,
                 on_size: Callable[[Size], None] = lambda size: None) -> Result:
    """Measure a term alone, forward and backward, at sizes along one axis.

    Args:
        term (dict): Config of a :class:`~mmdiverse.terms.DiversityTerm`.
        axis (str): One of ``AXES``.
        values (Sequence[int]): Sizes along it, at least two.
        batch_size (int): Images.
        device (torch.device): Where to compute.
        repeats (int): Fewest measurements of a size, at least 2.
        base (Size): What the axis leaves as it is. Defaults to that of a DeiT-S.
        min_seconds (float): More are taken until this much time was measured. Defaults to 0.2.
        on_size (Callable): Called with each size that is done.

    Returns:
        dict: ``level``, ``axis``, ``values``, for each value ``seconds`` (median), ``quartiles``
        and ``operations``; ``exponent`` of all seconds and ``end_exponent`` of the last two sizes,
        and the same of operations, ``predicted_exponent`` and ``predicted_end_exponent``; at
        attention level lists of what :func:`compare_maps` gives. Small sizes may grow slower than
        predicted, for some of their time is spent before any work begins.
    """
    points = []
    for size in sizes_along(axis, values, base):
        seconds, around = _measure_size(term, size, batch_size, device, repeats, min_seconds)
        point = dict(seconds=seconds, quartiles=around,
                     operations=batch_size * count_operations(term, size, device))
        if term['on'] == 'attention':
            point.update(compare_maps(term, size, batch_size, device))
        points.append(point)
        on_size(size)
    columns = {key: [point[key] for point in points] for key in points[0]}
    return dict(level=term['on'], axis=axis, values=list(values), **columns,
                exponent=fit_exponent(values, columns['seconds']),
                end_exponent=fit_exponent(values[-2:], columns['seconds'][-2:]),
                predicted_exponent=fit_exponent(values, columns['operations']),
                predicted_end_exponent=fit_exponent(values[-2:], columns['operations'][-2:]),
                term=term)


def _measure_size(term: dict[str, Any], size: Size, batch_size: int, device: torch.device,
                  repeats: int, min_seconds: float) -> tuple[float, list[float]]:
    """Median seconds, and quartiles, of evaluating a term and its gradients."""
    diversity = DiversityTerm(**term)
    evaluate = partial(SyntheticTap(size, batch_size, device).backward, diversity)
    for _ in range(2):  # tensors are made, and power iterations take their first steps
        evaluate()
    elapsed: list[float] = []
    while len(elapsed) < repeats or sum(elapsed) < min_seconds:
        elapsed.append(time_call(evaluate, device))
    low, median, high = quartiles(elapsed)
    return median, [low, high]


def compare_maps(term: dict[str, Any], size: Size, batch_size: int, device: torch.device
                 ) -> Result:
    """Compare a term of attention maps that are never stored with the same of stored maps.

    Memory is the most that one evaluation and its gradients take above what exists anyway:
    queries, keys and values of all layers, and their gradients. Gradients are also compared with
    those of stored maps in float64, because in float32 those of stored maps may be further off.

    Args:
        term (dict): Config of a :class:`~mmdiverse.terms.DiversityTerm` at attention level.
        size (Size): Of the backbone.
        batch_size (int): Images.
        device (torch.device): Where to compute.

    Returns:
        dict: ``fused_bytes`` and ``stored_bytes``; ``gradient_difference`` between the two,
        ``fused_error`` and ``stored_error`` from float64: the largest difference over the largest
        gradient, of any layer.
    """

    def run(stored_maps: bool, dtype: torch.dtype) -> tuple[list[Tensor], int]:
        diversity = DiversityTerm(**term)
        tap = SyntheticTap(size, batch_size, device, stored_maps, dtype)
        tap.backward(diversity)  # gradients exist from here on
        gradients = [leaf.grad.clone() for leaf in tap.leaves.values()]
        peak = peak_memory(lambda: tap.backward(diversity), device) if dtype == torch.float32 else 0
        return gradients, peak

    def difference(first: list[Tensor], second: list[Tensor]) -> float:
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(first, second))

    fused, fused_bytes = run(False, torch.float32)
    stored, stored_bytes = run(True, torch.float32)
    exact, _ = run(True, torch.float64)
    return dict(fused_bytes=fused_bytes, stored_bytes=stored_bytes,
                gradient_difference=difference(fused, stored),
                fused_error=difference(fused, exact), stored_error=difference(stored, exact))
