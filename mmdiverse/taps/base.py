"""What every tap shares: which layers exist, capture during a forward pass, records."""
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import Registry
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..records import AttentionRecord, Record, TokenRecord, WeightRecord
from ..registry import TAPS

EMBED = 'embed'

Layer = int | str
Request = tuple[str, Layer]


@dataclass(frozen=True)
class TapPoints:
    """Where a backbone family keeps what a tap reads. Paths are relative to a block.

    Attributes:
        embedding (tuple[str, ...]): Modules and parameters of the backbone before its first
            block; those that a configuration lacks are skipped.
        attention (str): Module whose output holds the queries and keys, or the softmax maps.
        matrices (dict[str, tuple[str, int | None]]): Of each named weight matrix, the linear
            layer that holds it and, where one layer holds queries, keys and values one below the
            other, its place among the three.
    """

    embedding: tuple[str, ...]
    attention: str
    matrices: dict[str, tuple[str, int | None]]


def fused_qkv_matrices(qkv: str, proj: str, fc1: str, fc2: str) -> dict[str, tuple[str, Any]]:
    """The six matrices of a block whose queries, keys and values share one linear layer."""
    return {'q': (qkv, 0), 'k': (qkv, 1), 'v': (qkv, 2), 'proj': (proj, None),
            'fc1': (fc1, None), 'fc2': (fc2, None)}


def is_sequence(layers: Any) -> bool:
    """Whether ``layers`` of a term holds several layers; a string is one."""
    return isinstance(layers, Sequence) and not isinstance(layers, str)


class Tap:
    """Reads records from the backbones of one family.

    A subclass lists its :class:`TapPoints`, says which backbones it knows, and is registered in
    :data:`mmdiverse.registry.TAPS`. A tap is attached once and then gated by :meth:`recording`:
    adding or removing hooks between steps would break ``torch.compile``. Outputs of the backbone
    are the same with and without it.

    Args:
        backbone (nn.Module): A backbone for which :meth:`matches` holds.

    Attributes:
        points (TapPoints): Where things are.
        blocks (Sequence[nn.Module]): The transformer blocks, in order.
        num_prefix (int): Tokens in front that are no patches.
    """

    points: TapPoints

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.blocks: Sequence[nn.Module] = self.find_blocks()
        self.num_prefix: int = self.count_prefix_tokens()
        self._handles: list[RemovableHandle] = []
        self._captured: dict[Request, Any] = {}
        self._records: dict[Any, list[Record]] = {}
        self._recording = False

    # What a family says of itself

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        """Whether this tap knows the backbone."""
        raise NotImplementedError

    def find_blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks of the backbone, in order."""
        raise NotImplementedError

    def count_prefix_tokens(self) -> int:
        """How many tokens stand before the patches."""
        raise NotImplementedError

    def check_attention(self, block: nn.Module) -> None:
        """Raise ValueError if the maps of this block cannot be had exactly."""

    def attention_record(self, block: nn.Module, captured: Tensor, layer: int) -> AttentionRecord:
        """Make a record of what the module at ``points.attention`` returned."""
        raise NotImplementedError

    # Layers

    def resolve_layers(self, layers: Layer | Sequence[Layer], on: str) -> list[Layer]:
        """Turn the ``layers`` of a term into block indices.

        Args:
            layers (int | str | Sequence): Block indices, negative ones from the end; ``'embed'``
                for the input of the first block (patch level); or ``'all'`` blocks.
            on (str): The level.

        Returns:
            list[int | str]: Non-negative indices and ``'embed'``, in the order given.

        Raises:
            ValueError: If a layer does not exist, or is given twice, or has no such level.
        """
        depth = len(self.blocks)
        if layers == 'all':
            return list(range(depth))
        given = list(layers) if is_sequence(layers) else [layers]
        if not given:
            raise ValueError('`layers` is empty')
        resolved: list[Layer] = []
        for layer in given:
            if layer == EMBED and on == 'patch':
                resolved.append(EMBED)
            elif isinstance(layer, int) and not isinstance(layer, bool) and \
                    -depth <= layer < depth:
                resolved.append(layer % depth)
            else:
                embed = f", or '{EMBED}'," if on == 'patch' else ''
                raise ValueError(
                    f'`layers` must hold block indices from {-depth} to {depth - 1}{embed} or be '
                    f"'all' at level {on!r} of this {type(self.backbone).__name__} with {depth} "
                    f'blocks, but got {layer!r}')
        if len(set(resolved)) < len(resolved):
            raise ValueError(f'`layers` names a block twice: {given}')
        return resolved

    # Capture

    def attach(self, requests: Iterable[Request]) -> None:
        """Hook the modules that the requested records need.

        Args:
            requests (Iterable[tuple[str, int | str]]): Level and resolved layer of each.

        Raises:
            ValueError: If a module is missing, or attention cannot be rebuilt.
        """
        requests = sorted(set(requests), key=str)
        attention = {}
        for layer in (layer for level, layer in requests if level == 'attention'):
            # Before any hook is made, so that a failure leaves none behind.
            self.check_attention(self.blocks[layer])
            attention[layer] = self._find_module(self.blocks[layer], self.points.attention, layer)
        for level, layer in requests:
            key = (level, layer)
            if level == 'attention':
                module = attention[layer]
                self._handles.append(module.register_forward_hook(self._capture_output(key)))
            elif level == 'patch' and layer == EMBED:
                self._handles.append(
                    self.blocks[0].register_forward_pre_hook(self._capture_input(key)))
            elif level == 'patch':
                self._handles.append(
                    self.blocks[layer].register_forward_hook(self._capture_output(key)))

    def detach(self) -> None:
        """Remove every hook and forget every tensor."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()

    def clear(self) -> None:
        """Forget what was captured."""
        self._captured.clear()
        self._records.clear()

    def start(self) -> None:
        """Forget what was captured, and capture from now on."""
        self.clear()
        self._recording = True

    def stop(self) -> bool:
        """Capture no more, and return whether capture was on."""
        was_recording, self._recording = self._recording, False
        return was_recording

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Capture within the ``with`` block; read the records before leaving it."""
        self.start()
        try:
            yield
        finally:
            self.stop()
            self.clear()

    def _capture_output(self, key: Request) -> Callable[[nn.Module, tuple, Tensor], None]:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if self._recording:
                self._captured[key] = output
        return hook

    def _capture_input(self, key: Request) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, args: tuple) -> None:
            if self._recording:
                self._captured[key] = args[0]
        return hook

    # Records

    def records(self, level: str, layer: Layer, matrices: Sequence[str] = ()) -> list[Record]:
        """The records of one layer, made once per forward pass.

        Args:
            level (str): ``'patch'``, ``'attention'`` or ``'weight'``.
            layer (int | str): Resolved layer.
            matrices (Sequence[str]): At weight level, which matrices.

        Returns:
            list[Record]: One record; at weight level one for each linear layer that holds some of
            the matrices.

        Raises:
            RuntimeError: If the layer was not reached in the forward pass, if what it gave has no
                gradient though parameters before it train, or if a weight is sharded away.
            ValueError: If a weight matrix is unknown.
        """
        key = (level, layer, tuple(matrices))
        if key not in self._records:
            if level == 'weight':
                self._records[key] = self._weight_records(layer, matrices)
            else:
                captured = self._read(level, layer)
                self._records[key] = [
                    TokenRecord(captured, layer, self.num_prefix) if level == 'patch' else
                    self.attention_record(self.blocks[layer], captured, layer)]
        return self._records[key]

    def _read(self, level: str, layer: Layer) -> Tensor:
        captured = self._captured.get((level, layer))
        if captured is None:
            raise RuntimeError(
                f'nothing was captured at level {level!r} of layer {layer!r}: the forward pass of '
                f'{type(self.backbone).__name__} did not reach its module; change `layers` or '
                '`on` of the term that asks for it')
        if torch.is_grad_enabled() and not captured.requires_grad and \
                any(p.requires_grad for p in self._parameters_before(layer)):
            raise RuntimeError(
                f'what was captured at level {level!r} of layer {layer!r} has no gradient, though '
                'parameters before it train. Re-entrant activation checkpointing does this: remove '
                'this block from `activation_checkpointing` (or `with_cp` of the backbone), or '
                'choose other `layers` for the term')
        return captured

    def _parameters_before(self, layer: Layer) -> Iterator[nn.Parameter]:
        for name in self.points.embedding:
            part = getattr(self.embedding_owner, name, None)
            if isinstance(part, nn.Parameter):
                yield part
            elif isinstance(part, nn.Module):
                yield from part.parameters()
        if layer != EMBED:
            for block in self.blocks[:layer + 1]:
                yield from block.parameters()

    @property
    def embedding_owner(self) -> nn.Module:
        """The module that ``points.embedding`` is relative to."""
        return self.backbone

    def _weight_records(self, layer: int, matrices: Sequence[str]) -> list[Record]:
        places: dict[str, list[int | None]] = {}
        for name in matrices:
            path, place = self.points.matrices[name]
            places.setdefault(path, []).append(place)
        return [WeightRecord(self._stack(layer, path, order), layer)
                for path, order in places.items()]

    def _stack(self, layer: int, path: str, order: list[int | None]) -> Tensor:
        linear = self._find_module(self.blocks[layer], path, layer)
        weight = linear.weight
        expected = (linear.out_features, linear.in_features)
        if tuple(weight.shape) != expected:
            raise RuntimeError(
                f'the weight of `{path}` in block {layer} should have shape {expected}, but has '
                f'{tuple(weight.shape)}: it is sharded away. Use a sharding strategy that keeps '
                'whole parameters after the forward pass, or drop the terms with `on="weight"`')
        if order == [None]:
            return weight.unsqueeze(0)
        stacked = weight.view(3, -1, weight.size(1))
        # A view where all three are asked for: a copy would be the dearest part of a cheap loss.
        return stacked if order == [0, 1, 2] else stacked[order]

    def check_matrices(self, matrices: Sequence[str]) -> None:
        """Check the ``matrices`` of a term.

        Raises:
            ValueError: If a name is unknown, or a block has no such matrix.
        """
        unknown = [name for name in matrices if name not in self.points.matrices]
        if unknown:
            raise ValueError(f'`matrices` must be taken from {list(self.points.matrices)}, but got '
                             f'{unknown}')
        for name in matrices:
            for layer, block in enumerate(self.blocks):
                self._find_module(block, self.points.matrices[name][0], layer)

    def _find_module(self, block: nn.Module, path: str, layer: Layer) -> nn.Module:
        try:
            return block.get_submodule(path)
        except AttributeError as error:
            raise ValueError(
                f'{type(self).__name__} expects a module `{path}` in every block, but block {layer}'
                f' of {type(self.backbone).__name__} ({type(block).__name__}) has none: {error}'
            ) from error


def build_tap(backbone: nn.Module, registry: Registry = TAPS) -> Tap:
    """Build the tap that knows a backbone.

    Args:
        backbone (nn.Module): For example the ``backbone`` of an ``ImageClassifier``.
        registry (Registry): Where to look. Defaults to :data:`mmdiverse.registry.TAPS`.

    Raises:
        ValueError: If no registered tap knows the backbone.
    """
    registry.import_from_location()
    for tap in registry.module_dict.values():
        if tap.matches(backbone):
            return tap(backbone)
    raise ValueError(
        f'no tap knows the backbone {type(backbone).__name__} (`model.backbone`); those registered '
        f'are {sorted(registry.module_dict)}. Use a supported backbone, or register a Tap for this '
        'one in mmdiverse.registry.TAPS')
