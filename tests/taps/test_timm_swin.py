"""timm's SwinTransformers: stages, windows."""
import pytest
import torch

from tests.taps.families import attached
from tests.taps.families.timm_swin import PADDED, swin


@pytest.mark.parametrize('name', ['swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256',
                                  'swinv2_cr_tiny_224'])
def test_blocks_are_counted_through_the_stages(name: str) -> None:
    backbone = swin(name)
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        shapes = [tap.record('patch', layer).shape for layer in ('embed', 0, 1, 2, 3)]
        maps = [tuple(tap.record('maps', layer).maps.shape) for layer in (1, 2)]
    assert shapes == [(2, 64, 8)] * 3 + [(2, 16, 16)] * 2
    assert maps == [(8, 2, 16, 16), (2, 4, 16, 16)]
    assert [tap.patch_size(layer) for layer in ('embed', 1, 2)] == [(4, 4), (4, 4), (8, 8)]


def test_tokens_that_pad_windows_are_no_part_of_records() -> None:
    family, = PADDED
    backbone = family.build()
    tap = attached(backbone)
    with tap.recording():
        backbone(family.images())
        shapes = [tuple(record.maps.shape) for record in tap.records('maps', 1)]
    # 6 x 6 tokens in windows of 4: of each image one window of 4 x 4, two of 4 x 2, one of 2 x 2.
    assert shapes == [(3, 2, 4, 4), (6, 2, 8, 8), (3, 2, 16, 16)]
