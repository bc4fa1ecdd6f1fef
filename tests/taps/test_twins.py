"""PCPVT and SVT: keys fewer than queries, windows."""
import pytest
import torch
from mmpretrain.models.backbones import SVT

from mmdiverse.image_mask import ImageMask
from mmdiverse.taps import build_tap
from tests.taps.families import attached
from tests.taps.families.twins import twins


def svt() -> SVT:
    backbone = twins(SVT, window_sizes=[4, 2])
    backbone.eval()
    return backbone


def test_global_attention_has_fewer_keys_than_queries() -> None:
    backbone = twins()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        shapes = [tuple(tap.record('maps', layer).maps.shape) for layer in (0, 2)]
    assert shapes == [(2, 2, 64, 16), (2, 4, 16, 16)]


def test_every_second_block_of_svt_attends_in_windows() -> None:
    backbone = svt()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        shapes = [tuple(tap.record('maps', layer).maps.shape) for layer in range(4)]
    assert shapes == [(8, 2, 16, 16), (2, 2, 64, 16), (8, 4, 4, 4), (2, 4, 16, 16)]


def test_outputs_of_windows_are_what_the_projection_takes() -> None:
    backbone, seen = svt(), []
    backbone.stages[0][0].attn.proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(1, 3, 32, 32))
        outputs = tap.record('outputs', 0).heads.transpose(1, 2).flatten(2)
    for row in range(8):
        for column in range(8):
            window, token = row // 4 * 2 + column // 4, row % 4 * 4 + column % 4
            assert torch.equal(outputs[window, token], seen[0][0, row * 8 + column])


@pytest.mark.parametrize(('source', 'message'), [
    ('maps', 'attention of 64 queries to 16 keys at layer 0 cannot leave out tokens of padding'),
    ('values', r"at layer 0 of PCPVT there are 16 tokens, but patches of \(4, 4\) pixels make 64: "
               "it pools them .*`on='attention'`"),
])
def test_padded_images_are_refused_where_keys_are_fewer(source: str, message: str) -> None:
    backbone = twins()
    tap = attached(backbone)
    with tap.recording(ImageMask([(32, 32), (20, 32)], (32, 32))):
        backbone(torch.randn(2, 3, 32, 32))
        with pytest.raises(ValueError, match=message):
            tap.records(source, 0)


def test_patches_grow_with_the_stages() -> None:
    tap = build_tap(twins())
    assert [tap.patch_size(layer) for layer in ('embed', 1, 2)] == [(4, 4), (4, 4), (8, 8)]
