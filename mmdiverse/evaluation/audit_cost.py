"""What an audit costs: forward passes that are measured beside plain ones."""
import resource
import sys
from collections.abc import Callable

import torch
from torch import nn

from ..datasets.audit_images import evenly_spaced
from ..measures import MEASURES
from .measurement import Result, quartiles, time_call
from .redundancy import RedundancyMeter

#: Batches before those that count.
WARM_UP = 2


@torch.no_grad()
def measure_audit(backbone: nn.Module, batch_size: int, img_size: int, num_images: int,
                  num_subsampled: int, on_batch: Callable[[], None] = lambda: None) -> Result:
    """Time a backbone with and without a meter, on random images.

    Every batch goes through the backbone plain and measured, in an order that alternates. All
    measures of tokens and heads see every image, but the dear ones, which see as many as given,
    evenly spaced; their time counts too.

    Args:
        backbone (nn.Module): In evaluation mode, one that a tap knows.
        batch_size (int): Images of a batch.
        img_size (int): Their height and width.
        num_images (int): How many in all, a multiple of ``batch_size`` or rounded down to one.
        num_subsampled (int): How many for the dear measures.
        on_batch (Callable): Called after each batch.

    Returns:
        dict: ``total_ratio``, the time of all measured over that of all plain passes;
        ``median_ratio`` and ``quartiles`` over the batches; seconds of every batch,
        ``plain_seconds`` and ``measured_seconds``; and ``resident_bytes``, the most memory the
        process has held, after each batch.

    Raises:
        ValueError: If there are fewer than two batches, or no tap knows the backbone.
    """
    batches = num_images // batch_size
    if batches < 2:
        raise ValueError(f'--images must be at least two batches, but got {num_images} images in '
                         f'batches of {batch_size}')
    device = next(backbone.parameters()).device
    names = [name for name, measure in MEASURES.items() if measure.captured != 'weight']
    meter = RedundancyMeter(backbone, names, embed=True)
    total = batches * batch_size
    chosen = set(evenly_spaced(total, num_subsampled))
    images = torch.randn(batch_size, 3, img_size, img_size, device=device)
    plain, measured, resident = [], [], []

    def measure(batch: int) -> None:
        first = batch * batch_size
        subsample = [first + index in chosen for index in range(batch_size)]
        with meter.measuring(subsample):
            backbone(images)

    def pair(batch: int) -> dict[bool, float]:
        passes: dict[bool, Callable[[], object]] = {False: lambda: backbone(images),
                                                    True: lambda: measure(batch)}
        return {with_meter: time_call(passes[with_meter], device)
                for with_meter in ((False, True) if batch % 2 else (True, False))}

    try:
        for batch in range(-WARM_UP, batches):
            seconds = pair(batch)
            if batch >= 0:
                plain.append(seconds[False])
                measured.append(seconds[True])
                resident.append(peak_resident_bytes())
            on_batch()
    finally:
        meter.detach()
    ratios = [with_meter / without for without, with_meter in zip(plain, measured)]
    low, median, high = quartiles(ratios)
    return dict(total_ratio=sum(measured) / sum(plain), median_ratio=median, quartiles=[low, high],
                images=total, subsampled=len(chosen), plain_seconds=plain,
                measured_seconds=measured, resident_bytes=resident)


def peak_resident_bytes() -> int:
    """The most memory that this process has held."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == 'darwin' else 1024)
