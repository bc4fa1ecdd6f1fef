"""A term: one diversity loss at one level of the network, with its coefficient."""
import builtins
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from mmengine.dist import all_reduce, get_dist_info
from torch import Tensor

from .losses import DiversityLoss
from .losses.base import check_choice, check_not_negative
from .records import LEVELS, Record, WeightRecord, merge_weights
from .registry import LOSSES
from .schedules import WeightSchedule
from .spelling import did_you_mean, find_closest
from .taps.base import EMBED, HEADS, Layer, Request, Tap, Weights, is_sequence

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
VECTORS = ('rows', 'columns')


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
        schedule (dict | Sequence[dict], optional): How the coefficient changes: configs of
            MMEngine's parameter schedulers; see :class:`~mmdiverse.schedules.WeightSchedule`.
        layers (int | str | Sequence, optional): Block indices (negative from the end), ``'all'``,
            or, at patch level, ``'embed'`` for the input of the first block. Exactly two for a
            loss between layers. Defaults to the layers of the paper: for patches the last block,
            or ``('embed', -1)``; for heads the first, or ``(0, -1)``; for weights ``'all'``, or
            ``(0, -1)``.
        heads (str): At attention level, what stands for a head: its ``'maps'``, ``'values'`` or
            ``'outputs'`` (as they enter the projection, after dropout). Defaults to ``'maps'``.
        matrices (Sequence[str]): At weight level, which matrices, among ``q``, ``k``, ``v``,
            ``proj``, ``fc1`` and ``fc2``. Defaults to queries, keys and values.
        vectors (str): At weight level, which vectors of a matrix: its ``'rows'`` (output neurons)
            or ``'columns'`` (inputs). Defaults to ``'rows'``.
        per_head (bool): At weight level, whether the share of each head in a matrix counts as a
            matrix of its own; not for ``fc1`` and ``fc2``. Defaults to False.
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
                 schedule: dict | Sequence[dict] | None = None,
                 layers: Layer | Sequence[Layer] | None = None,
                 heads: str | None = None,
                 matrices: Sequence[str] | None = None,
                 vectors: str | None = None,
                 per_head: bool | None = None,
                 reduction: str = 'mean',
                 name: str | None = None,
                 **loss: Any) -> None:
        _check_keys(type, loss)
        self.on = check_choice('on', on, LEVELS)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(f'`weight` must be a number, but got {weight!r}')
        self.weight = float(check_not_negative('weight', weight))
        self.schedule = None if schedule is None else WeightSchedule(self.weight, schedule)
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        for key, value, level in (('heads', heads, 'attention'), ('matrices', matrices, 'weight'),
                                  ('vectors', vectors, 'weight'), ('per_head', per_head, 'weight')):
            if value is not None and on != level:
                raise ValueError(f"`{key}` needs `on='{level}'`, but `on` is {on!r}")
        self.loss = build_loss(type, **loss)
        if on not in self.loss.levels:
            raise ValueError(f'{type} cannot work at `on={on!r}`, only at '
                             f'{list(self.loss.levels)}')
        self.layers = DEFAULT_LAYERS[on, self.loss.num_records] if layers is None else layers
        if self.loss.num_records == 2 and not (is_sequence(self.layers) and
                                               len(self.layers) == 2):
            raise ValueError(f'{type} compares two layers: `layers` must hold exactly two, but got '
                             f'{self.layers!r}')
        if matrices is not None and not (is_sequence(matrices) and matrices and
                                         all(isinstance(name, str) for name in matrices)):
            raise ValueError(f'`matrices` must be a list of names that is not empty, but got '
                             f'{matrices!r}')
        if matrices is not None and len(set(matrices)) < len(matrices):
            raise ValueError(f'`matrices` names a matrix twice: {matrices!r}')
        if per_head is not None and not isinstance(per_head, bool):
            raise TypeError(f'`per_head` must be a bool, but got {per_head!r}')
        self.heads = check_choice('heads', 'maps' if heads is None else heads, HEADS)
        self.weights = Weights(
            Weights.matrices if matrices is None else tuple(matrices),
            check_choice('vectors', Weights.vectors if vectors is None else vectors, VECTORS),
            bool(per_head))
        self.name = f'{on}_{_snake_case(type)}' if name is None else name
        if not isinstance(self.name, str):
            raise TypeError(f'`name` must be a string, but got {name!r}')
        if 'loss' in self.name:
            raise ValueError(f"`name` must not contain 'loss', but got {self.name!r}: MMEngine adds"
                             ' up everything so named, and the raw value would be optimized too')

    @property
    def current_weight(self) -> float:
        """The coefficient now, as the schedule has it."""
        return self.weight if self.schedule is None else self.schedule.value

    @property
    def _source(self) -> str:
        return self.heads if self.on == 'attention' else self.on

    def resolve(self, tap: Tap) -> list[Layer]:
        """Check the term against a backbone, and return its layers as non-negative indices.

        Raises:
            ValueError: If a layer or a weight matrix does not exist there.
        """
        layers = tap.resolve_layers(self.layers, self.on)
        if self.on == 'weight':
            tap.check_weights(self.weights, layers)
        return layers

    def check_layers(self, tap: Tap) -> None:
        """Check the vectors of the layers as far as they are known before a forward pass.

        Raises:
            ValueError: If a layer has too few heads, or if two layers that the term compares have
                tokens that stand for patches of different sizes.
        """
        layers = self.resolve(tap)
        for layer in layers if self.on == 'attention' else ():
            heads = tap.count_heads(layer)
            if heads < self.loss.min_vectors:
                raise ValueError(
                    f'{type(self.loss).__name__} needs at least {self.loss.min_vectors} vectors, '
                    f'but layer {layer} has {heads} at level {self.on!r}; change `layers` or `on` '
                    'of this term')
        if self.on == 'weight' or self.loss.num_records != 2:
            return
        try:
            first, second = map(tuple, map(tap.patch_size, layers))
        except NotImplementedError:  # the first step shows it
            return
        if first != second:
            sides = [f'{rows} x {columns}' for rows, columns in (first, second)]
            raise ValueError(
                f'{type(self.loss).__name__} compares two layers with equal tokens, but at layer '
                f'{layers[0]!r} a token stands for {sides[0]} pixels, and at layer {layers[1]!r} '
                f'for {sides[1]}; change `layers` of this term (in a Swin, stay within one stage: '
                'take the fragment swin or swin_patch, as by `--diversity swin`)')

    def requests(self, tap: Tap) -> list[Request]:
        """What the tap has to capture for this term: nothing at weight level."""
        layers = self.resolve(tap)
        return [] if self.on == 'weight' else [(self._source, layer) for layer in layers]

    def evaluate(self, tap: Tap, model_loss: Tensor | None = None, share: bool = False) -> Tensor:
        """Evaluate the term, without its weight, on what a tap captured.

        Args:
            tap (Tap): After a forward pass.
            model_loss (Tensor, optional): The model's own loss, for a term of its gradients.
            share (bool): Whether the processes of a distributed run, which hold the same weights
                and average their gradients, share out the matrices of a term at weight level.
                Values and averaged gradients are the same. Defaults to False.

        Returns:
            Tensor: A scalar. Lower is more diverse.

        Raises:
            RuntimeError: If something was not captured, or has no gradient where it should.
            ValueError: If the loss cannot work on these records.
        """
        resolved = tap.resolve_layers(self.layers, self.on)
        records = (self._records(tap, layer, model_loss) for layer in resolved)
        if self.loss.num_records == 2:
            values = [self.loss(*pair) for pair in self._pairs(*map(list, records))]
            items = values if self.on == 'weight' else [self._mean(values, tap, resolved[-1])]
        elif self.on == 'weight':
            merged = merge_weights(list(chain(*records)))
            items = [self._share(record) if share else self.loss(record) for record in merged]
        else:
            items = [self._mean([self.loss(record) for record in of_layer], tap, layer)
                     for layer, of_layer in zip(resolved, records)]
        items = torch.cat(items)
        return items.sum() if self.reduction == 'sum' else items.mean()

    def _pairs(self, first: list[Record], second: list[Record]) -> Iterator[tuple[Record, Record]]:
        if len(first) != len(second):
            raise ValueError(f'{type(self.loss).__name__} compares two layers with equal tokens, '
                             f'but padding leaves other ones at each of `layers`={self.layers!r}; '
                             'in a Swin, stay within one stage')
        return zip(first, second)

    def _mean(self, values: list[Tensor], tap: Tap, layer: Layer) -> Tensor:
        """The mean over the images, ``(1,)``."""
        if not values:
            return tap.zero(self._source, layer)
        return torch.cat(values).mean(0, keepdim=True)

    def _records(self, tap: Tap, layer: Layer, model_loss: Tensor | None) -> Iterator[Record]:
        """The records of a layer, made only when asked for.

        Autograd goes back in the order in which things were made. So each layer is done before the
        next, and gradients of their maps are not all there at a time.
        """
        if self.loss.of_gradients:
            yield from tap.gradient_records(layer, model_loss)
        else:
            yield from tap.records(self._source, layer, self.weights)

    def _share(self, record: WeightRecord) -> Tensor:
        """Values ``(B,)`` of all matrices, with a gradient to those of this process alone."""
        rank, world_size = get_dist_info()
        own = record.share(rank, world_size)
        # Also where nothing is left for this process, so that all do the same collectives.
        values = self.loss(own)
        every = self._gather(values, own)
        state = self.loss.state.get(own.key)
        if state is not None:
            state.copy_(self._gather(state[own.items], own))
        if not values.requires_grad:  # but what another process has may well train
            values = values + 0 * sum(part.flatten()[0] for part in record.parts()
                                      if part.requires_grad)
        # Gradients are averaged over the processes, and the others' are zero.
        gradient = torch.zeros_like(every)
        gradient[own.items] = world_size * (values - values.detach())
        return every + gradient

    @staticmethod
    def _gather(part: Tensor, own: Record) -> Tensor:
        """Put together what every process has of a batch."""
        whole = part.new_zeros((own.total, *part.shape[1:]))
        whole[own.items] = part.detach()
        all_reduce(whole)
        return whole


#: The keys of a term, beside the options of its loss.
KEYS = tuple(key for key in inspect.signature(DiversityTerm).parameters if key != 'loss')
#: Those that every term must have.
REQUIRED = tuple(key for key in KEYS if inspect.signature(DiversityTerm).parameters[key].default
                 is inspect.Parameter.empty)


def build_term(config: dict[str, Any]) -> DiversityTerm:
    """Build a term from its config.

    Args:
        config (dict): Arguments of :class:`DiversityTerm`.

    Raises:
        TypeError: If a key is missing or unknown; the message says which may be meant. As of
            :class:`DiversityTerm`.
        ValueError: As of :class:`DiversityTerm`.
    """
    missing = [key for key in REQUIRED if key not in config]
    if 'type' not in missing:
        _check_keys(config['type'], config)
    if missing:
        others = [key for key in config if key not in KEYS]
        guesses = (find_closest(key, others) for key in missing)
        instead = ''.join(f'; did you mean it by {guess!r}?' for guess in guesses if guess)
        raise TypeError(f'missing {", ".join(map(repr, missing))}: every term needs '
                        f'{list(REQUIRED)}{instead}')
    return DiversityTerm(**config)


def _check_keys(type: str, given: Iterable[str]) -> None:
    """Check that keys are those of a term, or of the loss of this type."""
    parameters = inspect.signature(_find_loss(type)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # which hands them on, to what knows them
    options = list(parameters)
    for key in given:
        if key not in KEYS and key not in options:
            others = [other for other in (*KEYS, *options) if other not in given]
            raise TypeError(f'{type} has the options {options}, and a term the keys {list(KEYS)}, '
                            f'but got {key!r}{did_you_mean(key, others)}')


def build_loss(type: str, **options: Any) -> DiversityLoss:
    """Build a registered diversity loss.

    Raises:
        ValueError: If no loss of this name is registered.
        TypeError: If it has no such option, or the value of one is of a wrong type.
    """
    loss = _find_loss(type)
    signature = inspect.signature(loss)
    try:
        signature.bind(**options)
    except TypeError as error:  # which alone would not show what the options are
        unknown = next((key for key in options if key not in signature.parameters), None)
        raise TypeError(f'{type}{signature}: {error}'
                        f'{did_you_mean(unknown, signature.parameters)}') from error
    for name, value in options.items():
        parameter = signature.parameters.get(name)
        if parameter is not None and not _fits(value, parameter.annotation):
            raise TypeError(f'{type}: `{name}` must fit `{parameter}`, but got {value!r}')
    return loss(**options)


def _find_loss(type: str) -> builtins.type[DiversityLoss]:
    """The class of a registered loss."""
    LOSSES.import_from_location()
    # Of anything but a name the registry raises by itself, without a word of `type`.
    named = isinstance(type, str) and type[:1].isidentifier()
    loss = LOSSES.get(type) if named else None
    if loss is None:
        known = sorted(LOSSES.module_dict)
        name = type.rpartition('.')[2] if isinstance(type, str) else type
        raise ValueError(f'`type` must be one of {known}, but got {type!r}'
                         f'{did_you_mean(name, known)}')
    return loss


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of the type of an annotation, where that is a bool or a number."""
    if annotation is bool:
        return isinstance(value, bool)
    if annotation in (int, float):
        return isinstance(value, (int, annotation)) and not isinstance(value, bool)
    return True


def _snake_case(name: str) -> str:
    words = re.findall(r'[A-Z]+(?![a-z])|[A-Z][a-z0-9]*', name.rpartition('.')[2])
    return '_'.join(word for word in words if word != 'Loss').lower()
