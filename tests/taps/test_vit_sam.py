"""ViTSAM: blocks with windows, and others without."""
import pytest

from mmdiverse.taps.base import HEADS
from tests.taps.families import attached
from tests.taps.families.vit_sam import FAMILIES, vit_sam

SAM = FAMILIES[0]


@pytest.mark.parametrize(('layer', 'items', 'tokens'), [(0, 12, 4), (1, 3, 16)])
def test_windows_are_items_of_the_batch(layer: int, items: int, tokens: int) -> None:
    backbone = SAM.build()
    tap = attached(backbone)
    with tap.recording():
        backbone(SAM.images())
        assert tap.records('maps', layer)[0].maps.shape == (items, 2, tokens, tokens)
        assert tap.records('values', layer)[0].heads.shape == (items, 2, tokens, 8)


@pytest.mark.parametrize('source', HEADS)
def test_tokens_that_pad_windows_are_left_out(source: str) -> None:
    backbone = vit_sam(img_size=12)  # 3 x 3 patches in windows of 2 x 2
    tap = attached(backbone)
    with tap.recording():
        backbone(SAM.images()[..., :12, :12])
        records = tap.records(source, 0)
    # Of each of three images one window is whole, two are halves, and one is a single patch.
    assert [(len(record.vectors()), record.num_tokens) for record in records] == [(6, 2), (3, 4)]
