"""Records: what a loss or a redundancy measure sees of a model.

Every record is a batch of ``M`` vectors in ``D`` dimensions, whatever level of the network they
come from. A loss only speaks to the methods of :class:`Record`; where the vectors come from,
and which summary is cheap, is the record's business.

=========  =====================  ==============================  ==========================
level      batch ``B``            vectors ``M``                   dimensions ``D``
=========  =====================  ==============================  ==========================
patch      images                 patch tokens                    channels
attention  images (or windows)    heads                           ``N x M`` map, flattened
weight     matrices               rows (output neurons)           columns (inputs)
=========  =====================  ==============================  ==========================

At patch level a record may hold gradients of tokens, at attention level the values or outputs of
heads, at weight level columns, or the share of one head in a matrix.
"""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .attention import (
    GramFunction,
    entropy_scale,
    map_gram_of_maps,
    mean_entropy,
    softmax_maps,
)
from .precision import at_least_float32, inner_products, length, without_autocast

#: A vector of a norm up to this counts as zero, and its direction as zero instead of NaN.
EPS = 1e-8

LEVELS = ('patch', 'attention', 'weight')


class summary:  # noqa: N801, it is used as `property` is
    """A property of a record that is computed once, until what it was computed of changes.

    What was computed without gradient must not meet a loss that trains, nor a graph one that only
    measures; and a matrix of weights is another one after a step of the optimizer. A record keeps
    its summaries as long as nothing of the kind happens, see :meth:`Record.kept`. Autocast does not
    reach them.

    Args:
        function (Callable): Computes it, given the record.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, record: 'Record | None', owner: type) -> Any:
        if record is None:
            return self
        kept = record.kept()
        if self.name not in kept:
            with without_autocast(record.device):
                kept[self.name] = self.function(record)
        return kept[self.name]


class Record:
    """A batch of ``M`` vectors in ``D`` dimensions read from one layer.

    Args:
        layer (int | str): Where it was read: a block index or ``'embed'``.

    Attributes:
        level (str): ``'patch'``, ``'attention'`` or ``'weight'``.
        prefers_gram (bool): Whether a function of all inner products costs no more than one of
            the mean direction, because the vectors are few and would have to be made.
        stores_vectors (bool): Whether the vectors are at hand, and need not be made.
        persistent (bool): Whether the vectors are still there in the next step, a little changed.
        items (slice): Which items of the term's batch these are: all, unless the processes of a
            distributed run share them out.
    """

    level: str
    prefers_gram = False
    stores_vectors = True
    persistent = False
    items = slice(None)

    def __init__(self, layer: int | str) -> None:
        self.layer = layer
        self._state: Any = None
        self._kept: dict[str, Any] = {}

    def tensors(self) -> list[Tensor]:
        """The tensors that the record was made of."""
        raise NotImplementedError

    def kept(self) -> dict[str, Any]:
        """Summaries that hold for the present mode of autograd and content of the tensors."""
        tensors = self.tensors()
        state = (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors),
                 [None if tensor.is_inference() else tensor._version for tensor in tensors])
        if state != self._state:
            self._state, self._kept = state, {}
        return self._kept

    def vectors(self) -> Tensor:
        """The vectors themselves.

        Returns:
            Tensor: ``(B, M, D)``, in float32 or float64.
        """
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, M, D)``."""
        return tuple(self.vectors().shape)

    @property
    def device(self) -> torch.device:
        """Where the vectors are, or would be."""
        return self.tensors()[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Their type, float32 or float64."""
        return self.tensors()[0].dtype

    @property
    def total(self) -> int:
        """Items of the term's batch, of which these are ``items``."""
        return self.shape[0]

    @property
    def key(self) -> str:
        """Name of this batch among those of its term, which differ in shape, as ``'384x64'``."""
        return 'x'.join(str(size) for size in self.shape[1:])

    def parts(self) -> list[Tensor]:
        """The vectors as tensors ``(B_i, M, D)`` that make up the batch, where no copy is due."""
        return [self.vectors()]

    def select(self, items: slice | Tensor) -> 'Record':
        """Some items of the batch.

        Args:
            items (slice | Tensor): Which; as a tensor, ``(B,)`` of bool.
        """
        part = self._map(lambda tensor: tensor[items])
        # What was computed already need not be again.
        kept = self.kept()
        for name in ('_unit_vectors', 'centred_gram', 'gram', 'mean'):
            if name in kept:
                part.kept()[name] = kept[name][items]
        return part

    def detach(self) -> 'Record':
        """The same vectors without gradient."""
        return self._map(Tensor.detach)

    def double(self) -> 'Record':
        """The same vectors in float64."""
        return self._map(Tensor.double)

    def precise(self) -> 'Record':
        """The same vectors in float64 where they are few and at hand; otherwise as they are.

        Few and long vectors, as of heads, are often nearly orthogonal: their eigenvalues differ in
        digits that float32 has not.
        """
        few = self.level == 'attention'
        return self.double() if few and self.stores_vectors else self

    def _map(self, function: Callable[[Tensor], Tensor]) -> 'Record':
        """The same record with a function of its tensors."""
        raise NotImplementedError

    @summary
    def _norms(self) -> Tensor:
        return length(self.vectors())[..., None]

    @summary
    def _inverse_norms(self) -> Tensor:
        return self._norms.clamp_min(EPS).reciprocal() * (self._norms > EPS)

    @summary
    def _unit_vectors(self) -> Tensor:
        return self.vectors() * self._inverse_norms

    @summary
    def mean(self) -> Tensor:
        r"""Mean :math:`\bar x` of the vectors, ``(B, 1, D)``."""
        return self.vectors().mean(1, keepdim=True)

    @summary
    def centred_gram(self) -> Tensor:
        r"""Inner products :math:`(x_i - \bar x) \cdot (x_j - \bar x)`, ``(B, M, M)``."""
        centred = self.vectors() - self.mean
        return inner_products(centred, centred)

    @summary
    def gram(self) -> Tensor:
        r"""Inner products of the vectors as they are, :math:`x_i \cdot x_j`, ``(B, M, M)``."""
        # From the centred ones, because the other way round digits are lost.
        offsets = self.vectors() @ self.mean.mT - self.mean.square().sum(-1, keepdim=True) / 2
        return (self.centred_gram + offsets).add_(offsets.mT)

    @summary
    def _cosines(self) -> Tensor:
        return (self.gram * self._inverse_norms).mul_(self._inverse_norms.mT)

    @summary
    def spectrum(self) -> tuple[Tensor, Tensor]:
        r"""Eigenvalues and eigenvectors of the smaller of :math:`X X^\top` and :math:`X^\top X`.

        In float64: ``(B, K)``, ascending, and ``(B, K, K)``, with ``K = min(M, D)``.
        """
        x = self.vectors().double()
        eigenvalues, vectors = torch.linalg.eigh(x.mT @ x if x.size(2) < x.size(1) else x @ x.mT)
        return eigenvalues.clamp_min(0), vectors

    def inverse_norms(self) -> Tensor:
        r"""What makes a direction of each vector.

        .. math:: 1 / \lVert x_i \rVert

        Returns:
            Tensor: ``(B, M, 1)``; 0 for a vector not longer than :data:`EPS`.
        """
        return self._inverse_norms

    def unit_vectors(self) -> Tensor:
        r"""The directions of the vectors.

        .. math:: \hat x_i = x_i / \lVert x_i \rVert

        Returns:
            Tensor: ``(B, M, D)``; zero, and without gradient, for a vector not longer than
            :data:`EPS`.
        """
        return self._unit_vectors

    def map_gram(self, function: GramFunction, *items: Tensor, normalize: bool = True,
                 smaller: bool = False) -> Tensor:
        r"""Evaluate a function of the inner products of all pairs of vectors.

        .. math:: f(G), \qquad G_{ij} = \hat x_i \cdot \hat x_j

        Args:
            function (Callable): ``f``, from ``(B, M, M)`` to ``(B,)``. It is called on some items
                of the batch at a time, so it must treat each on its own.
            *items (Tensor): Further arguments of ``f``, with one entry for each item.
            normalize (bool): Inner products of directions (cosines, in ``[-1, 1]``) or of the
                vectors as they are. Defaults to True.
            smaller (bool): Where ``D < M``, give ``X^T X``, ``(B, D, D)``, instead, which has the
                same norm, trace and eigenvalues but for ``M - D`` zeros. Defaults to False.

        Returns:
            Tensor: ``(B,)``.
        """
        _, num, dim = self.shape
        smaller = smaller and dim < num
        if normalize and not smaller and not torch.is_grad_enabled():
            return function(self._cosines, *items)  # for several measures of one record
        x = self.unit_vectors() if normalize else self.vectors()
        x = x.mT if smaller else x
        return function(inner_products(x, x), *items)

    def map_cross_gram(self, other: 'Record', function: GramFunction, normalize: bool = True
                       ) -> Tensor:
        r"""Evaluate a function of the inner products of one vector from each of two records.

        .. math:: f(C), \qquad C_{ij} = \hat a_i \cdot \hat b_j

        Args:
            other (Record): ``(B, M, D)``.
            function (Callable): ``f``, from ``(B, M, M)`` to ``(B,)``; see :meth:`map_gram`.
            normalize (bool): Of directions or of the vectors as they are. Defaults to True.

        Returns:
            Tensor: ``(B,)``.
        """
        if normalize:
            return function(inner_products(self.unit_vectors(), other.unit_vectors()))
        return function(inner_products(self.vectors(), other.vectors()))

    def mean_direction(self) -> Tensor:
        r"""Mean of the directions, at a cost linear in ``M``.

        .. math:: \mu = \frac1M \sum_i \hat x_i

        Returns:
            Tensor: ``(B, D)``; its norm is 1 where all vectors point the same way and 0 where
            the directions cancel.
        """
        # As a product (1, M) x (M, D), so that the (B, M, D) directions are never written.
        scale = self._inverse_norms / self._norms.size(1)
        return inner_products(scale.mT, self.vectors().mT).squeeze(1)


def check_records(name: str, records: Sequence[Any], num: int | None = None,
                  kind: type[Record] = Record, several: bool = False) -> None:
    """Check what a loss or a measure is given.

    Args:
        name (str): Of the loss or the measure.
        records (Sequence): What is given.
        num (int, optional): How many it takes. Defaults to any number.
        kind (type[Record]): Which it takes. Defaults to every kind.
        several (bool): Whether it takes them in a list, one of each layer. Defaults to False.

    Raises:
        TypeError: If something is no such record, with the records that can be made of it; or if
            there are more or fewer; or if it takes a list and gets none.
    """
    if several and not (isinstance(records, Sequence) and records):
        raise TypeError(f'{name} takes a list of records, one of each layer, but got '
                        f'{type(records).__name__}')
    for given in records:
        if not isinstance(given, kind):
            shape = f' of shape {tuple(given.shape)}' if hasattr(given, 'shape') else ''
            takes = 'records' if kind is Record else f'records of type {kind.__name__}'
            raise TypeError(
                f'{name} takes {takes}, see `mmdiverse.records`, but got '
                f'{type(given).__name__}{shape}; make TokenRecord(tokens) of tokens (B, N, D), '
                'AttentionRecord(maps=maps) of attention maps (B, H, N, M), HeadRecord(heads) of '
                'values or outputs of heads (B, H, N, d), or WeightRecord(matrices) of weight '
                'matrices (B, out, in)')
    if num is not None and len(records) != num:
        raise TypeError(f'{name} takes {num} record{"s" * (num > 1)}, '
                        f'{"one of each layer" if num > 1 else "of one layer"}, '
                        f'but got {len(records)}')


class TokenRecord(Record):
    """Patch tokens of one layer, or their gradients.

    Args:
        tokens (Tensor): ``(B, prefix + N, D)``.
        layer (int | str): Block index, or ``'embed'`` for the input of the first block.
        num_prefix (int): Class, distillation and register tokens in front, which are no patches
            and are left out.
    """

    level = 'patch'

    def __init__(self, tokens: Tensor, layer: int | str = -1, num_prefix: int = 0) -> None:
        super().__init__(layer)
        self._vectors = at_least_float32(tokens[:, num_prefix:])

    def tensors(self) -> list[Tensor]:
        return [self._vectors]

    def vectors(self) -> Tensor:
        return self._vectors

    def keep_tokens(self, items: Tensor, tokens: Tensor) -> 'TokenRecord':
        """Some tokens of some items.

        Args:
            items (Tensor): Indices ``(b,)`` into the batch.
            tokens (Tensor): Indices ``(b, m)``, of each of these items, prefix tokens not counted.
        """
        return TokenRecord(self._vectors[items[:, None], tokens], self.layer)

    def _map(self, function: Callable[[Tensor], Tensor]) -> 'TokenRecord':
        return TokenRecord(function(self._vectors), self.layer)


class HeadRecord(Record):
    """Values or outputs of the heads of one layer; one vector per head.

    Args:
        heads (Tensor): ``(B, H, N, d)``, flattened to ``H`` vectors in ``N d`` dimensions.
        layer (int | str): Block index.
        num_prefix (int): Of the ``N`` tokens, those in front that are no patches.
    """

    level = 'attention'

    def __init__(self, heads: Tensor, layer: int | str = -1, num_prefix: int = 0) -> None:
        super().__init__(layer)
        self._heads = at_least_float32(heads)
        self.num_prefix = num_prefix

    def tensors(self) -> list[Tensor]:
        return [self._heads]

    @property
    def heads(self) -> Tensor:
        """Not flattened, ``(B, H, N, d)``."""
        return self._heads

    @property
    def num_tokens(self) -> int:
        """``N``, prefix tokens included."""
        return self._heads.size(2)

    @summary
    def _vectors(self) -> Tensor:
        return self._heads.flatten(2)

    def vectors(self) -> Tensor:
        return self._vectors

    def keep_tokens(self, items: Tensor, tokens: Tensor) -> 'HeadRecord':
        """All prefix tokens and some others, of some items; see :class:`TokenRecord`."""
        kept = _with_prefix(tokens, self.num_prefix)
        return HeadRecord(_tokens_of(self._heads, items, kept), self.layer, self.num_prefix)

    def _map(self, function: Callable[[Tensor], Tensor]) -> 'HeadRecord':
        return HeadRecord(function(self._heads), self.layer, self.num_prefix)


class AttentionRecord(Record):
    r"""Attention maps of one layer; one vector per head.

    Holds either the softmax maps, where the module computes them, or the queries and keys of a
    fused attention. From these, functions of the inner products are evaluated without a map ever
    being stored; maps are rebuilt where :meth:`Record.vectors` are asked for:

    .. math:: A_h = \mathrm{softmax}(s\, Q_h K_h^\top)

    Maps are taken before dropout, and keep the rows and columns of prefix tokens, as in the
    authors' code. In windowed attention every window is an item of the batch.

    Args:
        layer (int | str): Block index.
        maps (Tensor, optional): ``(B, H, N, M)``, rows sum to 1.
        q (Tensor, optional): Queries ``(B, H, N, d)``.
        k (Tensor, optional): Keys ``(B, H, M, d)``; as many as queries, unless the attention pools
            some.
        scale (float, optional): Factor ``s`` of the scores.

    Attributes:
        num_prefix (int): Rows and columns in front that belong to no patch.
        grid (tuple[int, int] | None): Height and width of the patches, where they are known.

    Raises:
        ValueError: If neither maps nor queries and keys are given.
    """

    level = 'attention'
    prefers_gram = True
    num_prefix = 0
    grid: tuple[int, int] | None = None

    def __init__(self,
                 layer: int | str = -1,
                 maps: Tensor | None = None,
                 q: Tensor | None = None,
                 k: Tensor | None = None,
                 scale: float | None = None) -> None:
        super().__init__(layer)
        if (maps is None) == (q is None or k is None or scale is None):
            raise ValueError('AttentionRecord takes either `maps` or all of `q`, `k` and `scale`')
        self._maps, self._q, self._k, self._scale = maps, q, k, scale

    @property
    def stores_vectors(self) -> bool:
        return self._maps is not None

    def tensors(self) -> list[Tensor]:
        return [self._q, self._k] if self._maps is None else [self._maps]

    @summary
    def maps(self) -> Tensor:
        """The softmax maps, ``(B, H, N, M)``, each row summing to 1."""
        if self._maps is not None:
            return at_least_float32(self._maps)
        return softmax_maps(at_least_float32(self._q), at_least_float32(self._k), self._scale)

    @property
    def num_tokens(self) -> int:
        """``N``, prefix tokens included."""
        return self._given.size(2)

    @summary
    def positive_maps(self) -> Tensor:
        """The maps, with what was rounded to zero a little above it, so that it has a logarithm."""
        return self.maps.clamp_min(torch.finfo(self.maps.dtype).tiny)

    @summary
    def entropies(self) -> Tensor:
        """Mean entropy of the rows of each map in nats, ``(B, H)``, in float64."""
        maps = self.positive_maps
        return mean_entropy(maps * entropy_scale(maps.size(-1)))

    def keep_tokens(self, items: Tensor, tokens: Tensor) -> 'AttentionRecord':
        r"""Attention among all prefix tokens and some others, of some items.

        .. math:: A'_{hij} = \frac{A_{hij} + \varepsilon}
            {\sum_{j' \text{ kept}} (A_{hij'} + \varepsilon)}

        Rows still sum to 1, as if the other tokens had been masked; see :class:`TokenRecord`. The
        :math:`\varepsilon`, far below what rounding takes, makes a row even of which softmax had
        left nothing to the tokens kept.

        Raises:
            ValueError: If keys are not the same tokens as queries.
        """
        if self.shape[2] != self.num_tokens**2:
            raise ValueError(f'attention of {self.num_tokens} queries to '
                             f'{self.shape[2] // self.num_tokens} keys at layer {self.layer!r} '
                             'cannot leave out tokens of padding; drop the terms with '
                             "`on='attention'`, or give all images one size")
        kept = _with_prefix(tokens, self.num_prefix)
        if self._q is None:
            rows = _tokens_of(self.maps, items, kept)
            maps = _tokens_of(rows.mT, torch.arange(len(items), device=items.device), kept).mT
            maps = maps + torch.finfo(maps.dtype).tiny**0.5  # which has a square, as gradients need
            return self._like(AttentionRecord(self.layer, maps=maps / maps.sum(-1, keepdim=True)))
        return self._like(AttentionRecord(self.layer, q=_tokens_of(self._q, items, kept),
                                          k=_tokens_of(self._k, items, kept), scale=self._scale))

    def stored(self) -> 'AttentionRecord':
        """The same record with :attr:`positive_maps` at hand, for measures that all need them."""
        maps, smallest = self.maps, torch.finfo(self.dtype).tiny
        # What was given belongs to the model.
        maps = maps.clamp_min(smallest) if self._q is None else maps.clamp_min_(smallest)
        record = self._like(AttentionRecord(self.layer, maps=maps))
        record.kept()['positive_maps'] = maps
        return record

    def _like(self, record: 'AttentionRecord') -> 'AttentionRecord':
        record.num_prefix, record.grid = self.num_prefix, self.grid
        return record

    @property
    def _given(self) -> Tensor:
        return self._maps if self._q is None else self._q

    @property
    def shape(self) -> tuple[int, int, int]:
        keys = self._given.size(3) if self._q is None else self._k.size(2)
        return *self._given.shape[:2], self._given.size(2) * keys

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self._given.dtype, torch.float32)

    def vectors(self) -> Tensor:
        return self.maps.flatten(2)

    def _map(self, function: Callable[[Tensor], Tensor]) -> 'AttentionRecord':
        if self._q is None:
            return self._like(AttentionRecord(self.layer, maps=function(self._maps)))
        return self._like(AttentionRecord(self.layer, q=function(self._q), k=function(self._k),
                                          scale=self._scale))

    def map_gram(self, function: GramFunction, *items: Tensor, normalize: bool = True,
                 smaller: bool = False) -> Tensor:
        # `smaller` has no use: heads are always fewer than the entries of a map.
        def of_gram(gram: Tensor, *items: Tensor) -> Tensor:
            return function(cosines(gram) if normalize else gram, *items)

        if self._q is None:
            return of_gram(inner_products(self.vectors(), self.vectors()), *items)
        return map_gram_of_maps(self._q, self._k, self._scale, of_gram, *items)

    def map_cross_gram(self, other: 'AttentionRecord', function: GramFunction,
                       normalize: bool = True) -> Tensor:
        if self._q is None:
            return super().map_cross_gram(other, function, normalize)
        # The heads of both layers together are the heads of one, whose Gram matrix has the cross
        # products in its upper right corner.
        both = AttentionRecord(
            self.layer, scale=1., k=torch.cat((self._k, other._k), 1),
            q=torch.cat([at_least_float32(record._q) * record._scale for record in (self, other)],
                        dim=1))
        num = self.shape[1]
        return both.map_gram(lambda gram: function(gram[:, :num, num:]), normalize=normalize)


def _with_prefix(tokens: Tensor, num_prefix: int) -> Tensor:
    """Indices of some patches, ``(b, m)``, behind those of all prefix tokens."""
    prefix = torch.arange(num_prefix, device=tokens.device).expand(len(tokens), -1)
    return torch.cat((prefix, tokens + num_prefix), dim=1)


def _tokens_of(given: Tensor, items: Tensor, tokens: Tensor) -> Tensor:
    """Some tokens, ``(b, m)``, of some items, ``(b,)``, of ``(B, H, N, d)``."""
    heads = torch.arange(given.size(1), device=given.device)
    return given[items[:, None, None], heads[:, None], tokens[:, None]]


def cosines(gram: Tensor) -> Tensor:
    r"""Cosines from inner products.

    .. math:: G_{ij} / \sqrt{G_{ii} G_{jj}}

    Args:
        gram (Tensor): ``(B, M, M)``.

    Returns:
        Tensor: ``(B, M, M)``, in ``[-1, 1]``; 0 for a zero vector.
    """
    squares = torch.diagonal(gram, dim1=-2, dim2=-1)
    scale = squares.clamp_min(EPS**2).rsqrt() * (squares > EPS**2)
    return gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)


class WeightRecord(Record):
    """Weight matrices of one shape, of one layer or several; one vector per row.

    Args:
        matrices (Tensor | Sequence[Tensor]): ``(B, out, in)``: matrices whose rows are the
            vectors. Several tensors count as if they were concatenated, and are not until a loss
            needs it: where a loss can work part by part, nothing is copied.
        layer (int | str): Block index.
    """

    level = 'weight'
    persistent = True

    def __init__(self, matrices: Tensor | Sequence[Tensor], layer: int | str = -1) -> None:
        super().__init__(layer)
        given = [matrices] if isinstance(matrices, Tensor) else matrices
        self._given = [at_least_float32(part) for part in given]
        self._total = self.shape[0]

    @property
    def total(self) -> int:
        return self._total

    @property
    def shape(self) -> tuple[int, int, int]:
        return sum(len(part) for part in self._given), *self._given[0].shape[1:]

    def tensors(self) -> list[Tensor]:
        return self._given

    def parts(self) -> list[Tensor]:
        # On a GPU one batch of all is worth its copy: small kernels cost their launch.
        return [self.vectors()] if self._given[0].is_cuda else self._given

    @summary
    def _vectors(self) -> Tensor:
        return self._given[0] if len(self._given) == 1 else torch.cat(self._given)

    def vectors(self) -> Tensor:
        return self._vectors

    def _map(self, function: Callable[[Tensor], Tensor]) -> 'WeightRecord':
        record = WeightRecord([function(part) for part in self._given], self.layer)
        record._total, record.items = self._total, self.items
        return record

    def map_gram(self, function: GramFunction, *items: Tensor, normalize: bool = True,
                 smaller: bool = False) -> Tensor:
        parts = self.parts()
        if len(parts) == 1:
            return super().map_gram(function, *items, normalize=normalize, smaller=smaller)
        splits = zip(*(item.split([len(part) for part in parts]) for item in items)) if items \
            else [()] * len(parts)
        return torch.cat([WeightRecord(part, self.layer).map_gram(
            function, *split, normalize=normalize, smaller=smaller)
            for part, split in zip(parts, splits)])

    def share(self, rank: int, world_size: int) -> 'WeightRecord':
        """The matrices that one of several processes takes, maybe none."""
        start, stop = (self._total * index // world_size for index in (rank, rank + 1))
        taken, offset = [], 0
        for part in self._given:
            own = part[max(start - offset, 0):max(stop - offset, 0)]
            taken += [own] if len(own) else []
            offset += len(part)
        record = WeightRecord(taken or self._given[0][:0], self.layer)
        record._total, record.items = self._total, slice(start, stop)
        return record


def merge_weights(records: Sequence[WeightRecord]) -> list[WeightRecord]:
    """Merge records of one shape, so that a loss meets all matrices of it in one batch.

    Args:
        records (Sequence[WeightRecord]): Of any shapes.

    Returns:
        list[WeightRecord]: One for each shape ``(M, D)``, in the order of their first matrices.
    """
    by_shape: dict[tuple[int, int], list[Tensor]] = {}
    for record in records:
        by_shape.setdefault(record.shape[1:], []).extend(record.parts())
    return [WeightRecord(parts, records[0].layer) for parts in by_shape.values()]
