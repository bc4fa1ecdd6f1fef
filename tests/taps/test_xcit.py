"""XCiT: attention among channels, layers of the class token."""
import pytest
import torch

from mmdiverse.taps import build_tap
from mmdiverse.taps.base import HEADS
from tests.taps.families import attached
from tests.taps.families.xcit import xcit


@pytest.mark.parametrize('source', HEADS)
def test_attention_among_channels_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="XCiT attends from channels to channels, .*`on='atten"):
        build_tap(xcit()).attach([(source, 0)])


def test_layers_of_the_class_token_are_no_blocks() -> None:
    backbone = xcit()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        assert len(tap.blocks) == 3 and tap.record('patch', 2).shape == (2, 16, 16)
