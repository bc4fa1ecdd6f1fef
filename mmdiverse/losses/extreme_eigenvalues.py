"""The largest and the smallest eigenvalue of a Gram matrix, exactly or by power iteration."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..precision import inner_products, length
from ..records import Record
from .base import check_choice

#: Steps from a random start. Later steps go on from where the last one ended.
FIRST_STEPS = 30


def exact_extremes(gram: Tensor) -> Tensor:
    """Largest and smallest eigenvalue, in float64.

    Args:
        gram (Tensor): Symmetric, ``(B, K, K)``.

    Returns:
        Tensor: ``(B, 2)``, in the dtype of ``gram``; NaN where an entry is not finite.
    """
    broken = ~gram.isfinite().all(-1).all(-1)
    # The decomposition of such a matrix is an error, which would end the run.
    eigenvalues = torch.linalg.eigvalsh(gram.masked_fill(broken[:, None, None], 0).double())
    return eigenvalues[:, [-1, 0]].masked_fill(broken[:, None], torch.nan).to(gram.dtype)


@torch.no_grad()
def power_iteration(parts: Sequence[Tensor], vectors: Tensor, steps: int) -> Tensor:
    r"""Normalised power iteration towards both ends of the spectrum of ``X X^T``.

    .. math::
        v_1 \leftarrow \frac{G v_1}{\lVert G v_1 \rVert}, \qquad
        v_2 \leftarrow \frac{(\lambda I - G) v_2}{\lVert (\lambda I - G) v_2 \rVert}, \qquad
        \lambda = v_1 \cdot G v_1

    without forming ``G``: a step is two products with ``X``.

    Args:
        parts (Sequence[Tensor]): ``X``, ``(B, K, L)``, in several tensors ``(B_i, K, L)``.
        vectors (Tensor): Unit vectors :math:`v_1, v_2`, ``(B, 2, K)``.
        steps (int): How often.

    Returns:
        Tensor: The new unit vectors, ``(B, 2, K)``, near the eigenvectors of the largest and the
        smallest eigenvalue.
    """
    sizes = [len(part) for part in parts]
    for _ in range(steps):
        products = torch.cat([inner_products(own @ x, x)
                              for x, own in zip(parts, vectors.split(sizes))])
        largest = (vectors[:, :1] * products[:, :1]).sum(-1, keepdim=True)
        new = torch.cat((products[:, :1], largest * vectors[:, 1:] - products[:, 1:]), dim=1)
        norms = length(new)[..., None]
        # The zero vector comes where G is zero, or a multiple of I: any vector will do.
        vectors = torch.where(norms > 0, new / norms, vectors)
    return vectors


def rayleigh_quotients(parts: Sequence[Tensor], vectors: Tensor) -> Tensor:
    r"""Quotients :math:`v \cdot X X^\top v` of unit vectors, which are held constant.

    At eigenvectors these are the eigenvalues, and the gradient is theirs.

    Args:
        parts (Sequence[Tensor]): ``X``, ``(B, K, L)``, in several tensors ``(B_i, K, L)``.
        vectors (Tensor): ``v``, ``(B, 2, K)``.

    Returns:
        Tensor: ``(B, 2)``.
    """
    sizes = [len(part) for part in parts]
    return torch.cat([own @ x for x, own in zip(parts, vectors.split(sizes))]).square().sum(-1)


class ExtremeEigenvalues:
    """Largest and smallest eigenvalue of the smaller Gram matrix of a record.

    ``'exact'`` decomposes it in float64. ``'power'`` takes ``steps`` steps of power iteration. The
    vectors of a record that persists (weights) change little from one training step to the next,
    so the iteration goes on from where it ended, and follows the eigenvectors; from a random
    start, 30 steps more are taken. Records that prefer their Gram matrix are always decomposed.

    Args:
        method (str): ``'exact'`` or ``'power'``.
        steps (int): Steps of power iteration.

    Attributes:
        state (dict[str, Tensor]): Where the iterations ended, ``(total, 2, K)``, by shape.

    Raises:
        ValueError: If ``method`` is unknown or ``steps`` below 1.
    """

    def __init__(self, method: str = 'exact', steps: int = 1) -> None:
        self.method = check_choice('method', method, ('exact', 'power'))
        if steps < 1:
            raise ValueError(f'`steps` must be at least 1, but got {steps}')
        self.steps = steps
        self.state: dict[str, Tensor] = {}

    def map(self, record: Record, function: Callable[[Tensor], Tensor], normalize: bool,
            generator: torch.Generator | None) -> Tensor:
        """Evaluate a function of the two eigenvalues.

        Args:
            record (Record): ``(B, M, D)``.
            function (Callable): From ``(B, 2)``, largest first, to ``(B,)``.
            normalize (bool): Of directions or of the vectors as they are.
            generator (torch.Generator | None): Source of random starts.

        Returns:
            Tensor: ``(B,)``.
        """
        if self.method == 'exact' or record.prefers_gram:
            return record.precise().map_gram(lambda gram: function(exact_extremes(gram)),
                                             normalize=normalize, smaller=True).to(record.dtype)
        parts = [record.unit_vectors()] if normalize else record.parts()
        parts = [x.mT if x.size(2) < x.size(1) else x for x in parts]
        ends = power_iteration(parts, *self._starts(record, parts[0], generator))
        if record.persistent:
            self.state[record.key][record.items] = ends
        return function(rayleigh_quotients(parts, ends))

    def _starts(self, record: Record, like: Tensor, generator: torch.Generator | None
                ) -> tuple[Tensor, int]:
        key, shape = record.key, (record.total, 2, like.size(1))
        kept = self.state.get(key)
        if record.persistent and kept is not None and kept.shape == shape:
            self.state[key] = kept.to(like)
            return self.state[key][record.items], self.steps
        # For all items, though only some may be ours: a distributed run draws what a single
        # process would.
        starts = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        starts = starts / length(starts)[..., None]
        if record.persistent:
            with torch.inference_mode(False):  # what is kept must do for any mode
                self.state[key] = starts.clone()
        return starts[record.items], self.steps + FIRST_STEPS
