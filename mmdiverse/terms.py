"""A term: one diversity loss at one level of the network, with its coefficient."""
import inspect
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .losses import DiversityLoss
from .records import LEVELS, merge_weights
from .registry import LOSSES
from .taps.base import EMBED, Layer, Request, Tap, is_sequence

#: Layers used where a term does not say; those of the paper.
DEFAULT_LAYERS: dict[tuple[str, int], Any] = {
    ('patch', 1): -1,
    ('patch', 2): (EMBED, -1),
    ('attention', 1): 0,
    ('attention', 2): (0, -1),
    ('weight', 1): 'all',
    ('weight', 2): (0, -1),
}
REDUCTIONS = ('mean', 'sum')


class DiversityTerm:
    r"""One diversity loss at one level of the network.

    .. math:: \mathrm{weight} \cdot \mathrm{reduce}_{l \in \mathrm{layers}}\ \mathcal L(R_l)

    The value of a layer is the mean over the images, or over the matrices; layers are then
    averaged. With ``reduction='sum'`` layers, and at weight level matrices too, are summed
    instead. Images are always averaged.

    Args:
        type (str): A loss in :data:`mmdiverse.registry.LOSSES`, such as ``'CosineLoss'``.
        on (str): Level: ``'patch'``, ``'attention'`` or ``'weight'``.
        weight (float): Coefficient, not negative. A term of weight 0 is left out.
        layers (int | str | Sequence, optional): Block indices (negative from the end), ``'all'``,
            or, at patch level, ``'embed'`` for the input of the first block. Exactly two for a
            loss between layers. Defaults to the layers of the paper: for patches the last block,
            or ``('embed', -1)``; for heads the first, or ``(0, -1)``; for weights ``'all'``, or
            ``(0, -1)``.
        matrices (Sequence[str]): At weight level, which matrices, among ``q``, ``k``, ``v``,
            ``proj``, ``fc1`` and ``fc2``. Defaults to queries, keys and values.
        reduction (str): ``'mean'`` or ``'sum'``. Defaults to ``'mean'``.
        name (str, optional): Name in the log. Defaults to the level and the type, as
            ``patch_cosine`` for a ``CosineLoss``.
        **loss: Options of the loss.

    Raises:
        ValueError: If a value is out of range; the message names the key.
        TypeError: If a value is of a wrong type, or the loss has no such option.
    """

    def __init__(self,
                 type: str,
                 on: str,
                 weight: float,
                 layers: Layer | Sequence[Layer] | None = None,
                 matrices: Sequence[str] | None = None,
                 reduction: str = 'mean',
                 name: str | None = None,
                 **loss: Any) -> None:
        if on not in LEVELS:
            raise ValueError(f'`on` must be one of {list(LEVELS)}, but got {on!r}')
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(f'`weight` must be a number, but got {weight!r}')
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f'`weight` must be finite and not negative, but got {weight}')
        if reduction not in REDUCTIONS:
            raise ValueError(f'`reduction` must be one of {list(REDUCTIONS)}, but got '
                             f'{reduction!r}')
        if matrices is not None and on != 'weight':
            raise ValueError(f"`matrices` needs `on='weight'`, but `on` is {on!r}")
        self.loss = build_loss(type, **loss)
        if on not in self.loss.levels:
            raise ValueError(f'{type} cannot work at `on={on!r}`, only at '
                             f'{list(self.loss.levels)}')
        self.on = on
        self.weight = float(weight)
        self.layers = DEFAULT_LAYERS[on, self.loss.num_records] if layers is None else layers
        if self.loss.num_records == 2 and not (is_sequence(self.layers) and
                                               len(self.layers) == 2):
            raise ValueError(f'{type} compares two layers: `layers` must hold exactly two, but got '
                             f'{self.layers!r}')
        if matrices is not None and not (is_sequence(matrices) and matrices):
            raise ValueError(f'`matrices` must be a list of names that is not empty, but got '
                             f'{matrices!r}')
        self.matrices = tuple(matrices or ('q', 'k', 'v')) if on == 'weight' else ()
        self.reduction = reduction
        self.name = f'{on}_{_snake_case(type)}' if name is None else name
        if not isinstance(self.name, str):
            raise TypeError(f'`name` must be a string, but got {name!r}')
        if 'loss' in self.name:
            raise ValueError(f"`name` must not contain 'loss', but got {self.name!r}: MMEngine adds"
                             ' up everything so named, and the raw value would be optimized too')

    def resolve(self, tap: Tap) -> list[Layer]:
        """Check the term against a backbone, and return its layers as non-negative indices.

        Raises:
            ValueError: If a layer or a weight matrix does not exist there.
        """
        tap.check_matrices(self.matrices)
        return tap.resolve_layers(self.layers, self.on)

    def requests(self, tap: Tap) -> list[Request]:
        """What the tap has to capture for this term."""
        return [(self.on, layer) for layer in self.resolve(tap)]

    def evaluate(self, tap: Tap) -> Tensor:
        """Evaluate the term, without its weight, on what a tap captured.

        Args:
            tap (Tap): After a forward pass.

        Returns:
            Tensor: A scalar. Lower is more diverse.

        Raises:
            RuntimeError: If something was not captured, or has no gradient where it should.
            ValueError: If the loss cannot work on these records.
        """
        layers = [tap.records(self.on, layer, self.matrices)
                  for layer in tap.resolve_layers(self.layers, self.on)]
        if self.loss.num_records == 2:
            values = [self.loss(first, second) for first, second in zip(*layers)]
        else:
            records = [record for layer in layers for record in layer]
            values = [self.loss(record) for record in (
                merge_weights(records) if self.on == 'weight' else records)]
        return self._reduce(values)

    def _reduce(self, values: list[Tensor]) -> Tensor:
        if self.on == 'weight':
            items = torch.cat(values)
        else:
            items = torch.stack([value.mean() for value in values])
        return items.sum() if self.reduction == 'sum' else items.mean()


def build_loss(type: str, **options: Any) -> DiversityLoss:
    """Build a registered diversity loss.

    Raises:
        ValueError: If no loss of this name is registered.
        TypeError: If it has no such option.
    """
    loss = LOSSES.get(type)
    if loss is None:
        raise ValueError(f'`type` must be one of {sorted(LOSSES.module_dict)}, but got {type!r}')
    signature = inspect.signature(loss)
    try:
        signature.bind(**options)
    except TypeError as error:  # which alone would not show what the options are
        raise TypeError(f'{type}{signature}: {error}') from error
    return loss(**options)


def _snake_case(name: str) -> str:
    return re.sub(r'(?<!^)(?=[A-Z])', '_', name.rpartition('.')[2].removesuffix('Loss')).lower()
