"""Conformer: its transformer branch."""
import torch

from mmdiverse.taps import build_tap
from tests.taps.families.conformer import conformer


def test_what_convolutions_add_is_in_the_next_block() -> None:
    backbone, seen = conformer(), []
    backbone.eval()
    tap = build_tap(backbone)
    tap.attach([('patch', 0), ('patch', 1)])
    backbone.conv_trans_2.trans_block.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][:, 1:]))
    backbone.conv_trans_2.squeeze_block.register_forward_hook(
        lambda module, args, output: seen.append(output[:, 1:]))
    with tap.recording():
        backbone(torch.randn(2, 3, 48, 48))
        added, entered = seen
        torch.testing.assert_close(tap.record('patch', 0).vectors() + added, entered)
