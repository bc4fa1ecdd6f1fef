"""TinyViT: its stage of convolutions, windows."""
import torch

from mmdiverse.taps.base import Weights
from tests.taps.families import attached
from tests.taps.families.tinyvit import tinyvit


def test_the_stage_of_convolutions_has_no_blocks() -> None:
    backbone = tinyvit()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 48, 48))
        tokens = [tuple(tap.record('patch', layer).shape) for layer in ('embed', 0, 1, 2)]
        maps = [tuple(tap.record('maps', layer).maps.shape) for layer in (1, 2)]
    assert tokens == [(2, 36, 16)] * 3 + [(2, 9, 16)]
    assert maps == [(8, 2, 9, 9), (2, 2, 9, 9)]


def test_the_values_come_from_the_rows_called_v() -> None:
    backbone, seen = tinyvit(), []
    qkv = backbone.stages[1].blocks[0].attn.qkv
    torch.nn.init.zeros_(qkv.bias)
    qkv.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 48, 48))
        matrix, = tap.records('weight', 0, Weights(('v', ), per_head=True))
        expected = torch.einsum('bnc,hdc->bhnd', seen[0], matrix.vectors())
        torch.testing.assert_close(tap.record('values', 0).heads, expected)


def test_tokens_that_pad_a_window_are_left_out() -> None:
    backbone = tinyvit(window_size=4)  # 6 x 6 tokens, then 3 x 3
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 48, 48))
        shapes = [[tuple(record.maps.shape) for record in tap.records('maps', layer)]
                  for layer in (0, 2)]
    assert shapes == [[(2, 2, 4, 4), (4, 2, 8, 8), (2, 2, 16, 16)], [(2, 2, 9, 9)]]
