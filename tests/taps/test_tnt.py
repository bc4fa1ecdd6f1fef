"""TNT: blocks that change their input in place, and torch's own attention."""
import torch

from tests.taps.families import attached
from tests.taps.families.tnt import FAMILIES

TNT = FAMILIES[0]


def test_the_next_block_does_not_change_what_was_captured() -> None:
    backbone, seen = TNT.build(), {}
    backbone.layers[0].register_forward_pre_hook(
        lambda module, args: seen.update(embed=args[1].clone()))
    for index, block in enumerate(backbone.layers):
        block.register_forward_hook(
            lambda module, args, output, index=index: seen.update({index: output[1].clone()}))
    tap = attached(backbone)
    with tap.recording():
        backbone(TNT.images())
        for layer in ('embed', 0, 1, 2):
            assert torch.equal(tap.records('patch', layer)[0].vectors(), seen[layer][:, 1:])


def test_the_attention_of_torch_is_seen_as_it_is_computed() -> None:
    backbone, seen = TNT.build(), []
    attention = backbone.layers[1].outer_block.attn.attn
    attention.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    tap = attached(backbone)
    with tap.recording():
        backbone(TNT.images())
        maps, values = (tap.records(source, 1)[0] for source in ('maps', 'values'))
        heads = (maps.maps @ values.heads).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.out_proj(heads), seen[0].transpose(0, 1))


def test_the_attention_among_pixels_of_a_patch_is_not_read() -> None:
    backbone = TNT.build()
    tap = attached(backbone)
    with tap.recording():
        backbone(TNT.images())
        assert tap.records('maps', 0)[0].maps.shape == (3, 2, 10, 10)
