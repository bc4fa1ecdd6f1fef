"""How alike the patch tokens of different layers are."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..losses.base import off_diagonal
from ..precision import inner_products
from ..records import Record, check_records


def cross_layer_cosine(records: Sequence[Record]) -> Tensor:
    r"""Mean cosine between a token of one layer and the same token of another.

    .. math:: C_{lm} = \frac1M \sum_i \hat x_i^{(l)} \cdot \hat x_i^{(m)}

    Args:
        records (Sequence[Record]): Of ``L`` layers, ``(B, M, D)``.

    Returns:
        Tensor: ``(B, L, L)``, in [-1, 1], with ones on the diagonal; NaN for layers of different
        shapes. Lower is more diverse: 1 where a layer changes no direction.

    Source: Gong et al., arXiv 2104.12753.
    """
    check_records('cross_layer_cosine', records, several=True)
    return _pairs(records, lambda record: record.shape[1:], lambda group: _inner_products(
        [record.unit_vectors().flatten(1) for record in group]) / group[0].shape[1])


def unbiased_hsic(records: Sequence[Record]) -> Tensor:
    r"""Unbiased Hilbert-Schmidt independence criterion of every two records, linear kernels.

    .. math:: \mathrm{HSIC}(K, L) = \frac{1}{M (M - 3)} \Bigl( \operatorname{tr} \tilde K \tilde L
        + \frac{\mathbb 1^\top \tilde K \mathbb 1\, \mathbb 1^\top \tilde L \mathbb 1}
        {(M - 1)(M - 2)} - \frac{2}{M - 2} \mathbb 1^\top \tilde K \tilde L \mathbb 1 \Bigr)

    where :math:`\tilde K` is the Gram matrix :math:`X X^\top` with a zero diagonal.

    Args:
        records (Sequence[Record]): ``(B, M, D)``, of equal ``M``.

    Returns:
        Tensor: ``(B, L, L)``; NaN where there are fewer than 4 vectors.

    Source: Song et al., JMLR 2012; Nguyen et al., ICLR 2021 (arXiv 2010.15327), equation 3.
    """
    check_records('unbiased_hsic', records, several=True)
    num = records[0].shape[1]
    if num < 4:
        return records[0].vectors().new_full((records[0].shape[0], *[len(records)] * 2), torch.nan)
    # The estimate does not change with the mean of the vectors. Without it, rows of a Gram matrix
    # sum to zero, so those of the matrix with a zero diagonal to minus the diagonal; and nothing
    # cancels where all vectors have much in common.
    # In float64, because one long token or channel makes nearly all of what follows: float32 would
    # leave rounding without it.
    centred = [(record.vectors() - record.mean).double() for record in records]
    dims = [record.shape[2] for record in records]
    if sum(dims) <= num:
        # <X X^T, Y Y^T> = ||X^T Y||^2, for all pairs in one product. It holds the diagonals.
        diagonals = [x.square().sum(-1) for x in centred]
        joined = torch.cat(centred, dim=2)
        rows = (joined.mT @ joined).square().split(dims, dim=1)
        product = torch.stack([torch.stack([block.sum((-2, -1)) for block in row.split(dims, 2)], 1)
                               for row in rows], 1)
        own = _inner_products(diagonals)
        product = product - own
    else:
        grams = [x @ x.mT for x in centred]
        diagonals = [gram.diagonal(dim1=-2, dim2=-1) for gram in grams]
        own = _inner_products(diagonals)
        product = _inner_products([off_diagonal(gram) for gram in grams])
    traces = torch.stack([diagonal.sum(-1) for diagonal in diagonals], dim=1)
    means = traces[:, :, None] * traces[:, None] / ((num - 1) * (num - 2))
    hsic = (product + means - 2 / (num - 2) * own) / (num * (num - 3))
    # Of vectors that are all equal, the mean leaves rounding alone.
    lengths = torch.cat([record.mean.square().sum(-1) for record in records], dim=1)
    dtype = records[0].dtype
    varies = traces > 100 * torch.finfo(dtype).eps**2 * num * lengths
    return (hsic * varies[:, :, None] * varies[:, None]).to(dtype)


def linear_cka_terms(records: Sequence[Record]) -> Tensor:
    """Unbiased HSIC of the tokens of an image in every two layers, for :func:`linear_cka`.

    Args:
        records (Sequence[Record]): Of ``L`` layers, ``(B, M, D)``.

    Returns:
        Tensor: ``(B, L, L)``; NaN for layers with different numbers of tokens, or fewer than 4.
    """
    check_records('linear_cka_terms', records, several=True)
    return _pairs(records, lambda record: record.shape[1], unbiased_hsic)


def linear_cka(terms: Tensor) -> Tensor:
    r"""Linear centred kernel alignment of layers, from mean HSIC.

    .. math:: \frac{\overline{\mathrm{HSIC}}(K, L)}
        {\sqrt{\overline{\mathrm{HSIC}}(K, K)\, \overline{\mathrm{HSIC}}(L, L)}}

    The minibatch is the patch tokens of one image, so the value does not depend on how images are
    batched.

    Args:
        terms (Tensor): Mean of :func:`linear_cka_terms` over images, ``(L, L)``.

    Returns:
        Tensor: ``(L, L)``, at most about 1, which is where two layers are alike up to rotation
        and scale; about 0 where they have nothing in common. NaN where the estimate of a layer
        with itself is not positive: its tokens do not vary, or images are too few. Lower is more
        diverse.

    Source: Kornblith et al., ICML 2019 (arXiv 1905.00414); minibatch form of Nguyen et al., ICLR
    2021 (arXiv 2010.15327), equation 2.
    """
    own = terms.diagonal()
    own = torch.where(own > 0, own, torch.nan)  # no variance, no alignment
    return terms / (own[:, None] * own[None]).sqrt()


def _inner_products(vectors: Sequence[Tensor]) -> Tensor:
    """Inner products ``(B, L, L)`` of ``L`` batches of vectors ``(B, D)``."""
    stacked = _stack(vectors)
    return inner_products(stacked, stacked)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """``(B, L, D)`` from ``L`` tensors ``(B, D)``: no copy where they lie in one at equal steps."""
    first = tensors[0]
    offsets = [tensor.storage_offset() for tensor in tensors]
    step = (offsets[-1] - offsets[0]) // max(1, len(tensors) - 1)
    if any(tensor.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
           or tensor.stride() != first.stride() for tensor in tensors) \
            or offsets != [offsets[0] + step * index for index in range(len(tensors))]:
        return torch.stack(list(tensors), dim=1)
    return first.as_strided((len(first), len(tensors), first.size(1)),
                            (first.stride(0), step, first.stride(1)))


def _pairs(records: Sequence[Record], shape: Callable[[Record], object],
           function: Callable[[Sequence[Record]], Tensor]) -> Tensor:
    """A function of all records of equal shape; NaN between records of different ones."""
    first = records[0].vectors()
    result = first.new_full((len(first), len(records), len(records)), torch.nan)
    for wanted in {shape(record) for record in records}:
        group = [index for index, record in enumerate(records) if shape(record) == wanted]
        rows, columns = torch.meshgrid(*[torch.tensor(group, device=first.device)] * 2,
                                       indexing='ij')
        result[:, rows, columns] = function([records[index] for index in group])
    return result
