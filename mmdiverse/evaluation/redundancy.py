"""How alike a model's tokens, heads and weight rows are."""
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from ..losses import mean_cosine
from ..records import LEVELS, Record
from ..taps import build_tap

#: Name of the measure of each level.
MEASURES = {'patch': 'token_cosine', 'attention': 'head_cosine', 'weight': 'weight_cosine'}
#: What a tap captures for the two levels that take a forward pass.
SOURCES = {'patch': 'patch', 'attention': 'maps'}


@torch.no_grad()
def measure_redundancy(model: nn.Module, batches: Iterable[dict]) -> dict[str, list[float]]:
    r"""Mean absolute cosine between different vectors, per level and block.

    .. math:: \frac{1}{M (M - 1)} \sum_{i \ne j} |\hat x_i \cdot \hat x_j|

    - ``token_cosine``: patch tokens at the output of a block;
    - ``head_cosine``: flattened attention maps of its heads, in a Swin within each window;
    - ``weight_cosine``: rows of its query, key and value matrices, averaged over the three.

    Args:
        model (nn.Module): A classifier with a ``backbone`` that a tap knows. It is left in
            evaluation mode.
        batches (Iterable[dict]): What a data loader gives; tokens and heads are averaged over all
            images.

    Returns:
        dict[str, list[float]]: For each measure a value in [0, 1] per block; lower is more
        diverse. NaN where a block has a single head.

    Raises:
        ValueError: If no tap knows the backbone, or there is no batch.
    """
    model.eval()
    tap = build_tap(model.backbone)
    blocks = range(len(tap.blocks))
    sums: dict[tuple[str, int], float] = defaultdict(float)
    images = 0
    tap.attach((source, layer) for source in SOURCES.values() for layer in blocks)
    try:
        for data in batches:
            batch = model.data_preprocessor(data, False)
            count = len(batch['inputs'])
            images += count
            with tap.recording():
                model(**batch, mode='tensor')
                for level, source in SOURCES.items():
                    for layer in blocks:
                        sums[level, layer] += count * _similarity(tap.records(source, layer))
        if not images:
            raise ValueError('measure_redundancy needs at least one batch, but got none')
        for layer in blocks:
            sums['weight', layer] = images * _similarity(tap.records('weight', layer))
    finally:
        tap.detach()
    return {MEASURES[level]: [sums[level, layer] / images for layer in blocks] for level in LEVELS}


def _similarity(records: list[Record]) -> float:
    if records[0].shape[1] < 2:
        return float('nan')
    return float(torch.cat([mean_cosine(record, 'absolute') for record in records]).mean())
