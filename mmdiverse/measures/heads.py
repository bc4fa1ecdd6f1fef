"""How alike the heads of a layer are, and how they attend."""
import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..attention import entropy_scale, mean_entropy
from ..precision import inner_products
from ..records import AttentionRecord, HeadRecord, TokenRecord, check_records, cosines
from .layers import unbiased_hsic

#: A token that attends to all patches together by less than this attends to none.
NO_ATTENTION = 1e-30


def head_cosine(record: AttentionRecord) -> Tensor:
    r"""Cosine between the attention maps of every two heads.

    .. math:: C_{hl} = \frac{\langle A_h, A_l \rangle}{\lVert A_h \rVert \lVert A_l \rVert}

    Args:
        record (AttentionRecord): ``(B, H, N M)``.

    Returns:
        Tensor: ``(B, H, H)``, in [0, 1], because maps are not negative; 1 on the diagonal. Lower
        is more diverse.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), attention level.
    """
    check_records('head_cosine', [record], kind=AttentionRecord)
    maps = record.vectors()
    return cosines(inner_products(maps, maps))


def head_jensen_shannon(record: AttentionRecord) -> Tensor:
    r"""Jensen-Shannon divergence between every two heads, mean over the rows of their maps.

    .. math:: J_{hl} = \frac1N \sum_i \mathcal H\Bigl(\frac{a_{hi} + a_{li}}2\Bigr)
        - \frac{\mathcal H(a_{hi}) + \mathcal H(a_{li})}2, \qquad
        \mathcal H(p) = -\sum_j p_j \log_2 p_j

    Args:
        record (AttentionRecord): ``(B, H, N M)``.

    Returns:
        Tensor: ``(B, H, H)`` in bits, in [0, 1]: 0 where two heads agree, 1 where they never look
        at the same token. Higher is more diverse.

    Source: Lin, IEEE Transactions on Information Theory 1991; between heads, Clark et al., 2019
    (arXiv 1906.04341).
    """
    check_records('head_jensen_shannon', [record], kind=AttentionRecord)
    maps, num = record.positive_maps, record.shape[1]
    own = record.entropies
    result = own.new_zeros((len(own), num, num))
    if num == 1:
        return result
    first, second = torch.triu_indices(num, num, 1, device=maps.device)
    # A product takes the means of many pairs at a time.
    heads = torch.eye(num, dtype=maps.dtype, device=maps.device) * entropy_scale(maps.size(-1))
    means = ((heads[first] + heads[second]) / 2).expand(len(maps), -1, -1)
    entropies = torch.cat([mean_entropy((part @ maps.flatten(2)).unflatten(-1, maps.shape[2:]))
                           for part in means.split(4 * num, dim=1)], dim=1)
    # Rounding may leave a little less than nothing between equal heads.
    own = (own[:, first] + own[:, second]) / 2
    result[:, first, second] = (entropies - own).clamp_min(0)
    return ((result + result.mT) / math.log(2)).to(record.dtype)


def attention_entropy(record: AttentionRecord) -> Tensor:
    r"""How widely a head attends: the entropy of the rows of its map over the largest possible.

    .. math:: \frac1N \sum_i \frac{-\sum_j a_{ij} \log a_{ij}}{\log M}

    with N queries and M keys, which are the same tokens but where some are pooled.

    Args:
        record (AttentionRecord): ``(B, H, N M)``.

    Returns:
        Tensor: ``(B, H)``, in [0, 1]: 1 where every token attends to all alike, 0 where each
        attends to one; NaN for a single key. Neither is more diverse.

    Source: Clark et al., 2019 (arXiv 1906.04341), there without the division.
    """
    check_records('attention_entropy', [record], kind=AttentionRecord)
    keys = record.shape[2] // record.num_tokens
    return (record.entropies / (math.log(keys) if keys > 1 else math.nan)).to(record.dtype)


def mean_attention_distance(record: AttentionRecord) -> Tensor:
    r"""How far a head looks, from patch to patch.

    .. math:: \frac1N \sum_i \frac{\sum_j a_{ij} d_{ij}}{\sum_j a_{ij}}

    over the patches i and j, prefix tokens left out, where d is the Euclidean distance between
    their places in the grid; in windowed attention, in that of the window.

    Args:
        record (AttentionRecord): ``(B, H, N^2)``, with its ``grid``.

    Returns:
        Tensor: ``(B, H)``, in sides of a patch of this layer, from 0 to the diagonal of the grid;
        rows that attend to no patch count as 0. NaN where the grid is not known.
        Neither is more diverse; heads of a diverse layer differ.

    Source: Dosovitskiy et al., ICLR 2021 (arXiv 2010.11929), there in pixels.
    """
    check_records('mean_attention_distance', [record], kind=AttentionRecord)
    if record.grid is None:
        return record.maps.new_full(record.shape[:2], torch.nan)
    skip = record.num_prefix
    weights = _distances(record.grid, skip, record.dtype, record.device)
    # Rows and columns of prefix tokens stay where they are, with no weight: nothing is copied.
    total, attention = torch.einsum('bhij,ijc->cbhi', record.maps, weights)[..., skip:]
    return (total / attention.clamp_min(NO_ATTENTION)).mean(-1)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must do for any mode
def _distances(grid: tuple[int, int], skip: int, dtype: torch.dtype, device: torch.device
               ) -> Tensor:
    """Distances between all tokens, and ones, ``(N, N, 2)``; 0 for prefix tokens."""
    places = torch.cartesian_prod(*(torch.arange(float(side)) for side in grid)).double()
    distances = torch.cdist(places, places)
    weights = torch.stack((distances, torch.ones_like(distances)), dim=-1)
    return nn.functional.pad(weights, (0, 0, skip, 0, skip, 0)).to(device, dtype)


def head_output_cka_terms(record: HeadRecord) -> Tensor:
    """Unbiased HSIC of the outputs of every two heads, for ``head_output_cka``.

    See :func:`~mmdiverse.measures.linear_cka_terms`; here the tokens, prefix tokens
    included, are those that each head gives.

    Args:
        record (HeadRecord): ``(B, H, N d)``.

    Returns:
        Tensor: ``(B, H, H)``; NaN where there are fewer than 4 tokens.

    Source: Kornblith et al., ICML 2019 (arXiv 1905.00414).
    """
    check_records('head_output_cka_terms', [record], kind=HeadRecord)
    return unbiased_hsic([TokenRecord(head) for head in record.heads.unbind(1)])
