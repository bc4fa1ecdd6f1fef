"""DaViT: blocks of two kinds, maps that are rounded down."""
import pytest
import torch

from mmdiverse.image_mask import ImageMask
from mmdiverse.taps import build_tap
from mmdiverse.taps.base import HEADS
from tests.taps.families import attached
from tests.taps.families.davit import davit


def test_blocks_of_windows_and_of_channels_alternate() -> None:
    backbone = davit()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 16, 16))
        tokens = [tuple(tap.record('patch', layer).shape) for layer in range(4)]
        maps = [tuple(tap.record('maps', layer).maps.shape) for layer in (0, 2)]
    assert tokens == [(2, 64, 8)] * 2 + [(2, 16, 16)] * 2
    assert maps == [(8, 2, 16, 16), (2, 4, 16, 16)]


@pytest.mark.parametrize('source', HEADS)
def test_attention_among_channels_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="odd index attend from channels to channels, .*name even "
                                         "`layers` in terms with `on='attention'`"):
        build_tap(davit()).attach([(source, 1)])


def test_padded_images_are_refused_where_patches_are_left_out() -> None:
    backbone = davit(pad_small_map=True)
    tap = attached(backbone)
    with tap.recording(ImageMask([(10, 12), (6, 12)], (10, 12))):
        backbone(torch.randn(2, 3, 10, 12))  # 5 x 6 tokens, then 2 x 3
        assert len(tap.records('patch', 1)) == 2
        for source in ('patch', 'maps'):
            with pytest.raises(ValueError, match='at layer 2 of DaViT there are 6 tokens, but .* '
                                                 'make 9.*`pad_size_divisor`'):
                tap.records(source, 2)
