"""What every tap shares: which layers exist, capture during a forward pass, records."""
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from typing import Any

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import Registry
from mmpretrain.models.classifiers import HuggingFaceClassifier, TimmClassifier
from mmpretrain.models.peft import LoRAModel
from mmpretrain.models.peft.lora import LoRALinear
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.hooks import RemovableHandle

from ..image_mask import ImageMask, Size, group_tokens
from ..precision import at_least_float32
from ..records import AttentionRecord, HeadRecord, Record, TokenRecord, WeightRecord
from ..registry import TAPS
from ..spelling import counted, did_you_mean, find_closest
from .probe import AttentionProbe, Scores

EMBED = 'embed'

Layer = int | str
#: What is captured (``'patch'``, ``'maps'``, ``'values'`` or ``'outputs'``), and at which layer.
Request = tuple[str, Layer]

#: Classifiers of MMPretrain that hold a whole model in the place of a ``backbone``.
WHOLE_MODELS = (TimmClassifier, HuggingFaceClassifier)

#: What may stand for a head at attention level.
HEADS = ('maps', 'values', 'outputs')


@dataclass(frozen=True)
class Weights:
    """Which weight matrices of a block, and which vectors of them.

    Attributes:
        matrices (tuple[str, ...]): Among ``q``, ``k``, ``v``, ``proj``, ``fc1`` and ``fc2``.
        vectors (str): ``'rows'``, the weights of output neurons, or ``'columns'``, of inputs.
        per_head (bool): Whether the share of each head in ``q``, ``k``, ``v`` (some rows) and
            ``proj`` (some columns) is a matrix of its own.
    """

    matrices: tuple[str, ...] = ('q', 'k', 'v')
    vectors: str = 'rows'
    per_head: bool = False


#: Where in a linear layer a matrix is: all of it; which of how many of equal height one below the
#: other; or what a function makes of the weight, a view where one can be had.
Place = None | tuple[int, int] | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TapPoints:
    """Where a backbone family keeps what a tap reads. Paths are relative to a block.

    Attributes:
        embedding (tuple[str, ...]): Paths of the modules and parameters of the backbone before its
            first block; those that a configuration lacks are skipped. None for all parameters
            that are registered before those of the first block.
        attention (str): Module whose output holds the queries and keys, or the softmax maps; of a
            tap that is ``probed``, the module that computes the attention.
        heads (str): Module that knows its ``num_heads``.
        matrices (dict[str, tuple[str, Place]]): Of each named weight matrix, the linear layer that
            holds it, and its place there.
    """

    embedding: tuple[str, ...]
    attention: str
    heads: str
    matrices: dict[str, tuple[str, Place]]


def fused_qkv_matrices(qkv: str, proj: str, fc1: str, fc2: str) -> dict[str, tuple[str, Place]]:
    """The six matrices of a block whose queries, keys and values share one linear layer."""
    return {'q': (qkv, (0, 3)), 'k': (qkv, (1, 3)), 'v': (qkv, (2, 3)), 'proj': (proj, None),
            'fc1': (fc1, None), 'fc2': (fc2, None)}


def separate_matrices(q: str, k: str, v: str, proj: str, fc1: str, fc2: str
                      ) -> dict[str, tuple[str, Place]]:
    """The six matrices of a block, each of which is a linear layer."""
    names = ('q', 'k', 'v', 'proj', 'fc1', 'fc2')
    return {name: (path, None) for name, path in zip(names, (q, k, v, proj, fc1, fc2))}


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split the output of a fused layer.

    Args:
        qkv (Tensor): ``(B, N, 3Hd)``.
        num_heads (int): ``H``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Queries, keys and values, each ``(B, H, N, d)``.
    """
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def inner_module(module: nn.Module) -> nn.Module:
    """The module inside those that FSDP, activation checkpointing or LoRA put around it.

    They hand attributes and sub-modules through, so only the class has to be asked of the inner
    one.
    """
    while isinstance(module, (FullyShardedDataParallel, CheckpointWrapper, LoRAModel)):
        module = module._checkpoint_wrapped_module if isinstance(module, CheckpointWrapper) \
            else module.module
    return module


def find_weight(linear: nn.Module) -> tuple[Tensor, tuple[int, int]]:
    """The weight of a linear layer, and the shape that it should have.

    That of a layer with LoRA is the sum of its frozen part and what is learned. An attention of
    torch keeps the weights of queries, keys and values itself. A convolution of single pixels is
    a linear layer.
    """
    if isinstance(linear, nn.MultiheadAttention):
        return linear.in_proj_weight, (3 * linear.embed_dim, linear.embed_dim)
    if isinstance(linear, nn.Conv2d):
        weight = linear.weight
        return weight.flatten(1) if weight.dim() == 4 else weight, \
            (linear.out_channels, linear.in_channels)
    if not isinstance(linear, LoRALinear):
        return linear.weight, (linear.out_features, linear.in_features)
    weight, shape = find_weight(linear.original_layer)
    learned = linear.scaling * linear.lora_up.weight @ linear.lora_down.weight
    return weight + learned, shape


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
        probed (bool): Whether attention is read by an :class:`AttentionProbe`, from the functions
            that its module calls, or from what modules return.
        layout (str): Of what a block takes and gives: tokens ``'BNC'``, or a map of them,
            ``'BHWC'`` or ``'BCHW'``.
        row_by_row (bool): Whether patches stand in the order of their places in the image.
        without_gradient (str): What takes the gradient from what is captured, and what to do.
        blocks (Sequence[nn.Module]): The transformer blocks, in order.
        num_prefix (int): Tokens in front that are no patches.
    """

    points: TapPoints
    probed = False
    layout = 'BNC'
    row_by_row = True
    without_gradient = (
        'Re-entrant activation checkpointing does this: remove this block from '
        '`activation_checkpointing` (or `with_cp` of the backbone), or choose other `layers` for '
        'the term')

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.blocks: Sequence[nn.Module] = self.find_blocks()
        if not self.blocks:
            raise ValueError(f'{type(backbone).__name__} has no transformer block, so that there '
                             'is nothing to diversify (`model.backbone.arch`)')
        self.num_prefix: int = self.count_prefix_tokens()
        self._handles: list[RemovableHandle] = []
        self._captured: dict[Request, Any] = {}
        self._records: dict[Any, list[Record]] = {}
        #: Copies of this tap with what each pass before the newest gave it.
        self._earlier: list[Tap] = []
        self._recording = False
        self._images: ImageMask | None = None
        self._with_gradient: set[Layer] = set()

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

    def prefix_at(self, layer: Layer) -> int:
        """How many tokens stand before the patches at a layer, where not at all alike."""
        return self.num_prefix

    def patch_size(self, layer: Layer) -> Size:
        """Height and width in pixels of what a token of this layer stands for.

        Asked where images are padded, as in detection and segmentation.
        """
        raise NotImplementedError(f'{type(self).__name__} lacks `patch_size`, without which tokens '
                                  'of padding cannot be told from those of images')

    def check_attention(self, block: nn.Module) -> None:
        """Raise ValueError if the maps of this block cannot be had exactly."""

    def check_block_weights(self, layer: int, weights: Weights) -> None:
        """Raise ValueError if a block lacks some of these weights."""
        block = self.blocks[layer]
        known = self.points_of(block).matrices
        unknown = [name for name in weights.matrices if name not in known]
        if unknown:
            raise ValueError(f'`matrices` must be taken from {list(known)} in block {layer} '
                             f'({type(block).__name__}), but got {unknown}'
                             f'{did_you_mean(unknown[0], known)}')
        for name in weights.matrices:
            self._find_module(block, known[name][0], layer)

    def points_of(self, block: nn.Module) -> TapPoints:
        """Where things are in a block, where not all blocks are alike."""
        return self.points

    def block_input(self, args: tuple) -> Tensor:
        """The tokens among what a block is called with."""
        return args[0]

    def block_output(self, output: Any) -> Tensor:
        """The tokens in what a block returns."""
        return output

    def attention_record(self, block: nn.Module, captured: Any, layer: int) -> AttentionRecord:
        """Make a record of what the module at ``points.attention`` returned, or a probe found."""
        if isinstance(captured, Tensor):
            return AttentionRecord(layer, maps=self._split_heads(captured, layer))
        q, k, scale, bias = captured
        if bias is None:
            return AttentionRecord(layer, q=self._split_heads(q, layer),
                                   k=self._split_heads(k, layer), scale=scale)
        scores = at_least_float32(q * scale) @ at_least_float32(k).mT
        return AttentionRecord(layer, maps=self._split_heads((scores + bias).softmax(-1), layer))

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
                    f"'all' at level {on!r} of this {type(self.backbone).__name__} with "
                    f'{counted(depth, "block")}, but got {layer!r}{_layer_meant_by(layer, on)}')
        if len(set(resolved)) < len(resolved):
            raise ValueError(f'`layers` names a block twice: {given}')
        return resolved

    # Capture

    def attach(self, requests: Iterable[Request],
               on_capture: Callable[[str, Layer], None] = lambda source, layer: None) -> None:
        """Hook the modules that the requested records need.

        Args:
            requests (Iterable[tuple[str, int | str]]): Level and resolved layer of each.
            on_capture (Callable): Called with these of each as soon as it is captured.

        Raises:
            ValueError: If a module is missing, or attention cannot be rebuilt.
        """
        self._on_capture = on_capture
        requests = sorted(set(requests), key=str)
        hooked = []
        for source, layer in requests:
            # Before any hook is made, so that a failure leaves none behind.
            if source == 'maps' or self.probed and source in HEADS:
                self.check_attention(self.blocks[layer])
            hooked.append(self._hooked_module(source, layer))
        if requests:
            self._handles.append(self.backbone.register_forward_pre_hook(self._begin_pass))
        probed: dict[nn.Module, list[Request]] = {}
        for key, module in zip(requests, hooked):
            source, layer = key
            if self.probed and source in HEADS:
                probed.setdefault(module, []).append(key)
            elif source == 'outputs' or layer == EMBED:
                self._handles.append(module.register_forward_pre_hook(self._capture_input(key),
                                                                      with_kwargs=True))
            else:
                self._handles.append(module.register_forward_hook(self._capture_output(key)))
        for module, keys in probed.items():
            self._probe(module, keys)

    def _begin_pass(self, backbone: nn.Module, args: tuple) -> None:
        """Keep what the pass before gave, where a model calls its backbone several times."""
        if self._recording and self._captured:
            self._earlier.append(copy(self))
            self._captured = {}

    def _hooked_module(self, source: str, layer: Layer) -> nn.Module:
        if layer == EMBED:
            return self.blocks[0]
        block = self.blocks[layer]
        points = self.points_of(block)
        if source == 'patch':
            path = ''
        elif source == 'maps' or self.probed:
            path = points.attention
        else:
            path = points.matrices['v' if source == 'values' else 'proj'][0]
        return self._find_module(block, path, layer)

    def _probe(self, module: nn.Module, keys: Sequence[Request]) -> None:
        """Capture the attention that a module computes, in the forms requested."""
        probes: list[AttentionProbe] = []

        def enter(module: nn.Module, args: tuple) -> None:
            if self._recording:
                probes.append(AttentionProbe(f'{type(module).__name__} in block {keys[0][1]}'))
                probes[-1].__enter__()

        def leave(module: nn.Module, args: tuple, output: Any) -> None:
            if probes:
                probe = probes.pop()
                probe.__exit__(None, None, None)
                if output is not None:  # as it is after an error
                    for key in keys:
                        self._capture(key, getattr(probe.only(), key[0]))

        self._handles += [module.register_forward_pre_hook(enter),
                          # Else an error in the module would leave the probe entered.
                          module.register_forward_hook(leave, always_call=True)]

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
        self._earlier.clear()
        self._images = None

    def forget(self, source: str, layer: Layer) -> None:
        """Forget what was captured of one layer.

        Args:
            source (str): ``'patch'``, ``'maps'``, ``'values'`` or ``'outputs'``.
            layer (int | str): Resolved layer.
        """
        self._captured.pop((source, layer), None)
        self._records.pop((source, layer, Weights()), None)

    def start(self, images: ImageMask | None = None) -> None:
        """Forget what was captured, and capture from now on.

        Args:
            images (ImageMask, optional): What counts of the images in the next forward pass.
                Defaults to all.
        """
        self.clear()
        self._images, self._recording = images, True

    def stop(self) -> bool:
        """Capture no more, and return whether capture was on."""
        was_recording, self._recording = self._recording, False
        return was_recording

    @contextmanager
    def recording(self, images: ImageMask | None = None) -> Iterator[None]:
        """Capture within the ``with`` block; read the records before leaving it.

        Args:
            images (ImageMask, optional): What counts of the images. Defaults to all.
        """
        self.start(images)
        try:
            yield
        finally:
            self.stop()
            self.clear()

    def _capture(self, key: Request, captured: Tensor | Scores) -> None:
        self._captured[key] = captured
        self._on_capture(*key)

    def _capture_output(self, key: Request) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if self._recording:
                self._capture(key, self.block_output(output) if key[0] == 'patch' else output)
        return hook

    def _capture_input(self, key: Request) -> Callable[[nn.Module, tuple, dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if self._recording:
                args = *args, *kwargs.values()
                self._capture(key, self.block_input(args) if key[0] == 'patch' else args[0])
        return hook

    # Records

    def records(self, source: str, layer: Layer, weights: Weights = Weights()) -> list[Record]:
        """The records of one layer, made once.

        Args:
            source (str): ``'patch'``, ``'maps'``, ``'values'``, ``'outputs'`` or ``'weight'``.
            layer (int | str): Resolved layer.
            weights (Weights): At weight level, which matrices and vectors.

        Returns:
            list[Record]: At weight level one record for each linear layer that holds some of the
            matrices. Otherwise one for each forward pass of the backbone, in their order; or,
            where padding or ignored pixels leave images (windows) with different numbers of
            tokens, one for each number, none for fewer than two.

        Raises:
            RuntimeError: If the layer was not reached in the forward pass, if what it gave has no
                gradient though parameters before it train, or if a weight is sharded away.
            ValueError: If a weight matrix is unknown, or no image is two patches large.
        """
        key = (source, layer, weights)
        if key not in self._records:
            if source == 'weight':
                self._records[key] = self._weight_records(layer, weights)
            else:
                self._records[key] = [
                    record for tap in self._passes
                    for record in tap._keep(tap.whole_record(source, layer), source, layer)]
        return self._records[key]

    @property
    def _passes(self) -> list['Tap']:
        """What every forward pass gave, in their order."""
        return [*self._earlier, self]

    def record(self, source: str, layer: Layer) -> Record:
        """The one record of a layer that has no more.

        Args:
            source (str): ``'patch'``, ``'maps'``, ``'values'`` or ``'outputs'``.
            layer (int | str): Resolved layer.

        Raises:
            RuntimeError: As of :meth:`records`.
            ValueError: If padding leaves different numbers of tokens, or the backbone was called
                several times.
        """
        records = self.records(source, layer)
        if self._earlier:
            raise ValueError(f'{type(self.backbone).__name__} was called {len(self._passes)} times '
                             'in one step, over which no mean is taken here')
        if len(records) != 1:
            raise ValueError(
                f'padding leaves windows with different numbers of tokens in block {layer} of '
                f'{type(self.backbone).__name__}, over which no mean is taken here; change the '
                'size of the images or `window_size` of the backbone, so that windows divide them')
        return records[0]

    def token_mask(self, source: str, layer: Layer) -> Tensor | None:
        """Which tokens count of what was captured, ``(B, N)`` of bool; None if all do.

        Raises:
            ValueError: If no image is two patches large.
        """
        if self._images is None:
            return None
        size = self.patch_size(layer)
        grid = self._images.grid(size)
        if self._images.tokens(grid, size, ignore=False).sum(1).max() < 2:
            raise ValueError(
                f'at layer {layer!r} a token stands for {size[0]} x {size[1]} pixels, and without '
                f'padding the images of this batch have {self._images.sizes}, less than two such '
                'tokens; enlarge the images (`train_pipeline`), or choose earlier `layers`')
        return self._images.tokens(grid, size)

    def _keep(self, record: Record, source: str, layer: Layer) -> list[Record]:
        """The record without the tokens that do not count, one for each number of tokens left."""
        mask = self.token_mask(source, layer)
        if mask is None or mask.all():
            return [record]
        self._check_count(mask, record.shape[1] if source == 'patch' else
                          record.num_tokens - self.prefix_at(layer), layer)
        return [record.keep_tokens(items.to(record.device), tokens.to(record.device))
                for items, tokens in group_tokens(mask)]

    def _check_count(self, mask: Tensor, count: int, layer: Layer) -> None:
        """Raise ValueError if a mask is not of the tokens that a layer has."""
        if mask.size(1) != count:
            raise ValueError(
                f'at layer {layer!r} of {type(self.backbone).__name__} there are {count} tokens, '
                f'but patches of {self.patch_size(layer)} pixels make {mask.size(1)}: it pools '
                'them in its attention, or leaves out what it masks or what is no whole patch. '
                "Drop the terms with `on='attention'`, or pad images to whole patches "
                '(`pad_size_divisor` of the data preprocessor)')

    def tokens(self, layer: Layer) -> Tensor:
        """The tokens of one layer in the last forward pass, ``(B, prefix + N, C)``.

        Args:
            layer (int | str): Resolved layer.

        Raises:
            RuntimeError: As of :meth:`records`.
        """
        return self._arrange(self._read('patch', layer))

    def whole_record(self, source: str, layer: Layer) -> Record:
        """The record of one layer in the last forward pass, with its tokens of padding too.

        Args:
            source (str): ``'patch'``, ``'maps'``, ``'values'`` or ``'outputs'``.
            layer (int | str): Resolved layer.

        Raises:
            RuntimeError: As of :meth:`records`.
        """
        if source == 'patch':
            return TokenRecord(self.tokens(layer), layer, self.prefix_at(layer))
        captured = self._read(source, layer)
        block = self.blocks[layer]
        if source == 'maps':
            record = self.attention_record(block, captured, layer)
            record.num_prefix = self.prefix_at(layer)
            return record
        num_heads = self.count_heads(layer)
        if self.probed:
            heads = self._split_heads(captured, layer)
        elif source == 'values':
            heads = split_heads(captured, num_heads)[2]
        else:
            heads = captured.unflatten(-1, (num_heads, -1)).transpose(1, 2)
        return HeadRecord(heads, layer, self.prefix_at(layer))

    def _arrange(self, tokens: Tensor) -> Tensor:
        """Tokens as ``(B, N, C)``, whatever their layout in the model."""
        return {'BNC': lambda: tokens, 'BHWC': lambda: tokens.flatten(1, 2),
                'BCHW': lambda: tokens.flatten(2).mT}[self.layout]()

    def _split_heads(self, tensor: Tensor, layer: int) -> Tensor:
        """What a probe found, ``(B, H, N, d)``, where the module had heads and images in one."""
        return tensor.unflatten(0, (-1, self.count_heads(layer))) if tensor.dim() == 3 else \
            tensor.flatten(0, -4)

    def gradient_records(self, layer: Layer, loss: Tensor) -> list[Record]:
        """The gradients of a loss with respect to the tokens of a layer, differentiable.

        Args:
            layer (int | str): Resolved layer.
            loss (Tensor): A scalar. Mean over the images; its gradients are multiplied by their
                number, so that none gets lost in half precision.

        Returns:
            list[Record]: As of :meth:`records`.

        Raises:
            RuntimeError: If the layer was not reached, or the loss does not depend on patches.
        """
        return [record for tap in self._passes for record in tap._gradient_records(layer, loss)]

    def _gradient_records(self, layer: Layer, loss: Tensor) -> list[Record]:
        tokens = self._read('patch', layer)
        gradient, = torch.autograd.grad(loss * len(self._arrange(tokens)), tokens,
                                        create_graph=True, allow_unused=True)
        if gradient is None or not self._check_gradient(layer, gradient):
            raise RuntimeError(
                f'the loss of the model does not depend on the patches at layer {layer!r}, so they '
                'have no gradients to diversify: a head that reads the class token alone does '
                'this. Mix patches (`tools/train.py --mixing`), or choose earlier `layers`')
        return self._keep(TokenRecord(self._arrange(gradient), layer, self.prefix_at(layer)),
                          'patch', layer)

    def zero(self, source: str, layer: Layer) -> Tensor:
        """The value of a layer of whose patches none counts in this batch, with a gradient."""
        captured = self._read(source, layer)
        return 0 * (captured.q if isinstance(captured, Scores) else captured).flatten()[:1]

    def _check_gradient(self, layer: Layer, gradient: Tensor) -> bool:
        """Whether patches have a gradient, until they have: a look at it makes a GPU wait."""
        if layer in self._with_gradient:
            return True
        if self._arrange(gradient)[:, self.prefix_at(layer):].any():
            self._with_gradient.add(layer)
            return True
        # In the first step a head that starts with zero weights gives no token a gradient. In any,
        # drop path may leave out the attention through which earlier patches would have one.
        return layer != len(self.blocks) - 1 or not gradient.any()

    def count_heads(self, layer: int) -> int:
        """How many heads the attention of a block has."""
        block = self.blocks[layer]
        return self._find_module(block, self.points_of(block).heads, layer).num_heads

    def _read(self, source: str, layer: Layer) -> Tensor | Scores:
        captured = self._captured.get((source, layer))
        if captured is None:
            raise RuntimeError(
                f'nothing was captured of {source!r} at layer {layer!r}: the forward pass of '
                f'{type(self.backbone).__name__} did not reach its module; change `layers` or '
                '`on` of the term that asks for it')
        if torch.is_grad_enabled() and not captured.requires_grad and \
                any(p.requires_grad for p in self._parameters_before(layer)):
            raise RuntimeError(
                f'what was captured of {source!r} at layer {layer!r} has no gradient, though '
                f'parameters before it train. {self.without_gradient}')
        return captured

    def _parameters_before(self, layer: Layer) -> Iterator[nn.Parameter]:
        yield from self.embedding_parameters()
        if layer != EMBED:
            for block in self.blocks[:layer + 1]:
                yield from block.parameters()

    def embedding_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters before the first block."""
        if not self.points.embedding:
            first = next(self.blocks[0].parameters())
            yield from takewhile(lambda parameter: parameter is not first,
                                 self.backbone.parameters())
        for path in self.points.embedding:
            part = reduce(lambda part, name: getattr(part, name, None), path.split('.'),
                          self.embedding_owner)
            if isinstance(part, nn.Parameter):
                yield part
            elif isinstance(part, nn.Module):
                yield from part.parameters()

    @property
    def embedding_owner(self) -> nn.Module:
        """The module that ``points.embedding`` is relative to."""
        return self.backbone

    def _weight_records(self, layer: int, weights: Weights) -> list[Record]:
        found = self.points_of(self.blocks[layer]).matrices
        groups: dict[tuple[str, Any], list[Place]] = {}
        for name in weights.matrices:
            path, place = found[name]
            # Those of one layer that are equal in height make one batch.
            groups.setdefault((path, place[1] if isinstance(place, tuple) else place), []).append(
                place)
        records = []
        for (path, _), places in groups.items():
            matrices = self._stack(layer, path, places)
            if weights.per_head:
                # Heads are rows of queries, keys and values, and columns of the projection.
                dim = 2 if path == found['proj'][0] else 1
                heads = matrices.unflatten(dim, (self.count_heads(layer), -1))
                matrices = heads.movedim(dim, 1).flatten(0, 1)
            records.append(WeightRecord(
                matrices.mT if weights.vectors == 'columns' else matrices, layer))
        return records

    def _stack(self, layer: int, path: str, places: list[Place]) -> Tensor:
        weight, expected = find_weight(self._find_module(self.blocks[layer], path, layer))
        if tuple(weight.shape) != expected:
            raise RuntimeError(
                f'the weight of `{path}` in block {layer} should have shape {expected}, but has '
                f'{tuple(weight.shape)}: it is sharded away. Use a sharding strategy that keeps '
                'whole parameters after the forward pass (`SHARD_GRAD_OP` of FSDP, a ZeRO stage '
                "below 3), or drop the terms with `on='weight'`")
        if not isinstance(places[0], tuple):
            place, = places
            return (weight if place is None else place(weight)).unsqueeze(0)
        stacked = weight.view(places[0][1], -1, weight.size(1))
        order = [index for index, _ in places]
        # A view where all are asked for: a copy would be the dearest part of a cheap loss.
        return stacked if order == [*range(len(stacked))] else stacked[order]

    def check_weights(self, weights: Weights, layers: Sequence[int] | None = None) -> None:
        """Check which weights a term asks for.

        Args:
            weights (Weights): Matrices and vectors.
            layers (Sequence[int], optional): Resolved layers. Defaults to all.

        Raises:
            ValueError: If a name is unknown, a block has no such matrix, or none per head.
        """
        headless = [name for name in weights.matrices if name in ('fc1', 'fc2')]
        if weights.per_head and headless:
            raise ValueError('`per_head=True` needs `matrices` that heads share, among '
                             f"['q', 'k', 'v', 'proj'], but got {headless}")
        refused: dict[int, ValueError] = {}
        for layer in range(len(self.blocks)):
            try:
                self.check_block_weights(layer, weights)
            except ValueError as error:
                refused[layer] = error
        for layer in refused if layers is None else layers:
            if layer in refused:
                others = [other for other in range(len(self.blocks)) if other not in refused]
                elsewhere = f'; `layers` of a term may be among {others}' if others else ''
                raise ValueError(f'{refused[layer]}{elsewhere}') from refused[layer]

    def _find_module(self, block: nn.Module, path: str, layer: Layer) -> nn.Module:
        try:
            return block.get_submodule(path)
        except AttributeError as error:
            raise ValueError(
                f'{type(self).__name__} expects a module `{path}` in every block, but block {layer}'
                f' of {type(self.backbone).__name__} ({type(block).__name__}) has none: {error}'
            ) from error


def _layer_meant_by(word: Any, on: str) -> str:
    """A question to put behind an error about a layer that does not exist."""
    if isinstance(word, str) and word.strip().removeprefix('-').isdecimal():
        return f'; did you mean {int(word)}, without quotes?'
    meant: dict[str, Layer] = {'first': 0, 'last': -1, 'all': 'all'}
    if on == 'patch':
        meant[EMBED] = EMBED
    closest = find_closest(word, meant)
    return '' if closest is None or meant[closest] == word else \
        f'; did you mean {meant[closest]!r}?'


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside those that distributed training or test-time augmentation put around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def find_backbone(model: nn.Module) -> nn.Module | None:
    """What taps read of a model: its ``backbone``, or the model that it holds, if it has one.

    Args:
        model (nn.Module): A model, or what :func:`inner_model` looks into.
    """
    model = inner_model(model)
    if isinstance(model, WHOLE_MODELS):
        return model.model
    return getattr(model, 'backbone', None)


def build_tap(backbone: nn.Module, registry: Registry = TAPS) -> Tap:
    """Build the tap that knows a backbone.

    Args:
        backbone (nn.Module): For example the ``backbone`` of an ``ImageClassifier``.
        registry (Registry): Where to look. Defaults to :data:`mmdiverse.registry.TAPS`.

    Raises:
        ValueError: If no registered tap knows the backbone.
    """
    registry.import_from_location()
    backbone = inner_module(backbone)
    # A tap that extends another knows some of its backbones better.
    for tap in sorted(registry.module_dict.values(), key=lambda tap: -len(tap.__mro__)):
        if tap.matches(backbone):
            return tap(backbone)
    raise ValueError(
        f'no tap knows the backbone {_describe(backbone)} (`model.backbone`). docs/coverage.md '
        'lists those that work; use one of them, or register a Tap for this one in '
        'mmdiverse.registry.TAPS (docs/add_a_backbone.md)')


def _describe(backbone: nn.Module) -> str:
    """The class of a backbone, and that of the model which it may hold."""
    model = inner_module(getattr(backbone, 'timm_model', backbone))
    name = type(backbone).__name__
    if model is backbone:
        return name
    # Where timm hands out features, its own class is gone: what is left is the name of the model.
    architecture = (getattr(model, 'pretrained_cfg', None) or {}).get('architecture')
    return f'{name} with timm\'s {type(model).__name__}' + \
        (f' ({architecture})' if architecture else '')
