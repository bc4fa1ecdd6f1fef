"""timm's Hiera: mask units and pooled queries."""
import torch

from tests.taps.families import attached
from tests.taps.families.timm_hiera import hiera


def test_every_mask_unit_is_an_item_of_the_batch() -> None:
    backbone = hiera()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(3, 3, 32, 32))
        shapes = [tuple(tap.record('maps', layer).maps.shape) for layer in range(4)]
    # The second and the third block pool their queries; the last attends to all tokens.
    assert shapes == [(12, 2, 16, 16), (12, 4, 4, 16), (12, 8, 1, 4), (3, 8, 4, 4)]


def test_a_mask_unit_attends_as_it_would_alone() -> None:
    backbone = hiera()
    backbone.eval()
    tap = attached(backbone)
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 24:, 24:] += 1.  # within the last unit
    found = []
    for each in (images, changed):
        with tap.recording(), torch.no_grad():
            backbone(each)
            found.append(tap.record('maps', 0).maps)
    same = [torch.equal(*units) for units in zip(*found)]
    assert same == [True, True, True, False]
