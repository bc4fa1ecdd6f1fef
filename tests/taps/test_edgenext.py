"""EdgeNeXt: attention among channels, convolutions."""
import pytest
import torch

from mmdiverse.taps import build_tap
from mmdiverse.taps.base import HEADS
from tests.taps.families import attached
from tests.taps.families.edgenext import edgenext
from tests.taps.families.family import trained_before_blocks


@pytest.mark.parametrize('source', HEADS)
def test_attention_among_channels_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="EdgeNeXt attends from channels to channels, .*`on='att"):
        build_tap(edgenext()).attach([(source, 0)])


def test_blocks_of_convolutions_are_no_blocks() -> None:
    backbone = edgenext()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 64, 64))
        shapes = [tuple(tap.record('patch', layer).shape) for layer in ('embed', 0, 1, 2)]
    assert shapes == [(2, 64, 16)] * 2 + [(2, 16, 24)] * 2


@pytest.mark.parametrize('positions', [False, True])
def test_the_embedding_ends_where_the_first_block_begins(positions: bool) -> None:
    tap = attached(edgenext(use_pos_embd_global=positions))
    trained = trained_before_blocks(tap, torch.randn(2, 3, 64, 64))
    assert trained and set(tap.embedding_parameters()) == trained
