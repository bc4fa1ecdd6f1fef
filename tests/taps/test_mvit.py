"""MViT: what it pools."""
import pytest
import torch

from mmdiverse.image_mask import ImageMask
from mmdiverse.taps import build_tap
from tests.taps.families import attached
from tests.taps.families.mvit import mvit


def test_a_block_that_pools_gives_fewer_tokens() -> None:
    backbone = mvit()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        tokens = [tuple(tap.record('patch', layer).shape) for layer in ('embed', 0, 1, 2)]
        maps = [tuple(tap.record('maps', layer).maps.shape) for layer in range(3)]
    assert tokens == [(2, 64, 8)] * 2 + [(2, 16, 16)] * 2
    assert maps == [(2, 1, 64, 4), (2, 2, 16, 16), (2, 2, 16, 4)]


def test_queries_that_are_added_are_no_part_of_outputs() -> None:
    backbone, seen = mvit(), {}
    backbone.eval()
    attention = backbone.blocks[1].attn
    attention.norm_q.register_forward_hook(
        lambda module, args, output: seen.update(queries=output))
    attention.proj.register_forward_pre_hook(lambda module, args: seen.update(sum=args[0]))
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        outputs = tap.record('outputs', 1).heads
    torch.testing.assert_close((outputs + seen['queries']).transpose(1, 2).flatten(2), seen['sum'])


def test_patches_grow_where_queries_are_pooled() -> None:
    tap = build_tap(mvit())
    assert [tap.patch_size(layer) for layer in ('embed', 0, 1)] == [(4, 4), (4, 4), (8, 8)]


def test_padded_images_are_refused_where_keys_are_fewer() -> None:
    backbone = mvit()
    tap = attached(backbone)
    with tap.recording(ImageMask([(32, 32), (16, 32)], (32, 32))):
        backbone(torch.randn(2, 3, 32, 32))
        assert [record.num_tokens for record in tap.records('maps', 1)] == [8, 16]
        with pytest.raises(ValueError, match='attention of 16 queries to 4 keys at layer 2'):
            tap.records('maps', 2)
