"""Records: what a loss or a redundancy measure sees of a model.

Every record is a batch of ``M`` vectors in ``D`` dimensions, whatever level of the network they
come from. A loss only speaks to the methods of :class:`Record`; where the vectors come from,
and which summary is cheap, is the record's business.

=========  =====================  ==============================  ==========================
level      batch ``B``            vectors ``M``                   dimensions ``D``
=========  =====================  ==============================  ==========================
patch      images                 patch tokens                    channels
attention  images (or windows)    heads                           ``N x N`` map, flattened
weight     matrices               rows (output neurons)           columns (inputs)
=========  =====================  ==============================  ==========================
"""
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from .attention import softmax_maps, squared_mean_map_direction

#: Norms below this count as this: a zero vector stays zero instead of becoming NaN.
EPS = 1e-8

LEVELS = ('patch', 'attention', 'weight')


def at_least_float32(tensor: Tensor) -> Tensor:
    """Raise the precision of what autocast or half-precision weights gave.

    Args:
        tensor (Tensor): Of any shape and floating-point type.

    Returns:
        Tensor: ``tensor`` in float32, or unchanged where it is float64 already.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class Record:
    """A batch of ``M`` vectors in ``D`` dimensions read from one layer.

    Args:
        layer (int | str): Where it was read: a block index or ``'embed'``.

    Attributes:
        level (str): ``'patch'``, ``'attention'`` or ``'weight'``.
    """

    level: str

    def __init__(self, layer: int | str) -> None:
        self.layer = layer

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

    def parts(self) -> list[Tensor]:
        """The vectors as tensors ``(B_i, M, D)`` that make up the batch, without a copy."""
        return [self.vectors()]

    @cached_property
    def _norms(self) -> Tensor:
        # vector_norm's subgradient at zero is zero, so a zero vector gets no NaN gradient.
        return torch.linalg.vector_norm(self.vectors(), dim=-1, keepdim=True)

    @cached_property
    def _unit_vectors(self) -> Tensor:
        return self.vectors() / self._norms.clamp_min(EPS)

    def unit_vectors(self) -> Tensor:
        r"""The directions of the vectors.

        .. math:: \hat x_i = x_i / \max(\lVert x_i \rVert, 10^{-8})

        Returns:
            Tensor: ``(B, M, D)``; a zero vector stays zero.
        """
        return self._unit_vectors

    def gram(self, normalize: bool = True) -> Tensor:
        r"""Inner products of all pairs of vectors.

        .. math:: G_{ij} = \hat x_i \cdot \hat x_j

        Args:
            normalize (bool): Of directions (cosines, in ``[-1, 1]``) or of the vectors as they
                are. Defaults to True.

        Returns:
            Tensor: ``(B, M, M)``.
        """
        x = self.unit_vectors() if normalize else self.vectors()
        return x @ x.mT

    def mean_direction(self) -> Tensor:
        r"""Mean of the directions, at a cost linear in ``M``.

        .. math:: \mu = \frac1M \sum_i \hat x_i

        Returns:
            Tensor: ``(B, D)``; its norm is 1 where all vectors point the same way and 0 where
            the directions cancel.
        """
        # As a product (1, M) x (M, D), so that the (B, M, D) directions are never written.
        scale = self._norms.clamp_min(EPS).reciprocal() / self._norms.size(1)
        return (scale.mT @ self.vectors()).squeeze(1)

    def squared_mean_direction(self) -> Tensor:
        r"""Squared norm of the mean direction, which is the mean of all cosines.

        .. math:: \lVert \mu \rVert^2 = \frac{1}{M^2} \sum_{i, j} \hat x_i \cdot \hat x_j

        Returns:
            Tensor: ``(B,)``, in [0, 1].
        """
        return self.mean_direction().square().sum(-1)


class TokenRecord(Record):
    """Patch tokens of one layer.

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

    def vectors(self) -> Tensor:
        return self._vectors


class AttentionRecord(Record):
    r"""Attention maps of one layer; one vector per head.

    Holds either the softmax maps, where the module computes them, or the queries and keys of a
    fused attention, from which the maps are rebuilt when a loss asks for them:

    .. math:: A_h = \mathrm{softmax}(s\, Q_h K_h^\top)

    Maps are taken before dropout, and keep the rows and columns of prefix tokens, as in the
    authors' code. In windowed attention every window is an item of the batch.

    Args:
        layer (int | str): Block index.
        maps (Tensor, optional): ``(B, H, N, N)``, rows sum to 1.
        q (Tensor, optional): Queries ``(B, H, N, d)``.
        k (Tensor, optional): Keys ``(B, H, N, d)``.
        scale (float, optional): Factor ``s`` of the scores.

    Raises:
        ValueError: If neither maps nor queries and keys are given.
    """

    level = 'attention'

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

    @cached_property
    def maps(self) -> Tensor:
        """The softmax maps, ``(B, H, N, N)``, each row summing to 1."""
        if self._maps is not None:
            return at_least_float32(self._maps)
        return softmax_maps(at_least_float32(self._q), at_least_float32(self._k), self._scale)

    @property
    def shape(self) -> tuple[int, int, int]:
        like = self._maps if self._q is None else self._q
        return like.size(0), like.size(1), like.size(2)**2

    def vectors(self) -> Tensor:
        return self.maps.flatten(2)

    def squared_mean_direction(self) -> Tensor:
        # Where the maps exist, because another loss asked for them, they are the cheaper source.
        if self._q is None or 'maps' in vars(self):
            return super().squared_mean_direction()
        return squared_mean_map_direction(at_least_float32(self._q), at_least_float32(self._k),
                                          self._scale)


class WeightRecord(Record):
    """Weight matrices of one shape, of one layer or several; one vector per row.

    Args:
        matrices (Tensor | Sequence[Tensor]): ``(B, out, in)``: matrices whose rows are the weights
            of single output neurons. Several tensors count as if they were concatenated, and are
            not until a loss needs it: where a loss can work part by part, nothing is copied.
        layer (int | str): Block index.
    """

    level = 'weight'

    def __init__(self, matrices: Tensor | Sequence[Tensor], layer: int | str = -1) -> None:
        super().__init__(layer)
        given = [matrices] if isinstance(matrices, Tensor) else matrices
        self._parts = [at_least_float32(part) for part in given]

    @property
    def shape(self) -> tuple[int, int, int]:
        return sum(len(part) for part in self._parts), *self._parts[0].shape[1:]

    def parts(self) -> list[Tensor]:
        return self._parts

    @cached_property
    def _vectors(self) -> Tensor:
        return self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)

    def vectors(self) -> Tensor:
        return self._vectors


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
