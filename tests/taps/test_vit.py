"""VisionTransformer: what its variants have that other families do not."""
import pytest
import torch
from mmpretrain.models.selfsup import MoCoV3ViT
from torch import nn

from mmdiverse.taps import build_tap
from mmdiverse.taps.base import split_heads
from tests.taps.families import attached
from tests.taps.families.vit import vit


def vit_without_attention() -> nn.Module:
    backbone = vit()
    for block in backbone.layers:
        block.attn = nn.Identity()
    return backbone


def test_a_fused_output_is_split_into_heads() -> None:
    qkv = torch.arange(12.).view(1, 1, 12)  # q, k, v of two heads with two channels each
    q, k, v = split_heads(qkv, 2)
    assert q.tolist() == [[[[0, 1]], [[2, 3]]]] and k.tolist() == [[[[4, 5]], [[6, 7]]]]
    assert v.tolist() == [[[[8, 9]], [[10, 11]]]]


def test_images_larger_than_img_size_have_more_patches() -> None:
    backbone = vit()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 20, 16))
        assert tap.records('patch', 2)[0].vectors().shape == (2, 20, 16)


def test_frozen_stages_are_read_and_later_ones_have_a_gradient() -> None:
    backbone = vit(frozen_stages=1)
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 12, 12))
        records = [tap.records('patch', layer)[0] for layer in ('embed', 0, 1)]
        assert [record.vectors().requires_grad for record in records] == [False, False, True]


def test_attention_of_another_kind_is_refused() -> None:
    tap = build_tap(vit_without_attention())
    with pytest.raises(ValueError, match="attention of VisionTransformer is a Identity, .*drop "
                                         "the terms with `on='attention'`"):
        tap.attach([('maps', 0)])


def test_patches_do_not_mind_attention_of_another_kind() -> None:
    backbone = vit_without_attention()
    tap = build_tap(backbone)
    tap.attach([('patch', 'embed'), ('patch', 1)])
    with tap.recording():
        backbone(torch.randn(2, 3, 12, 12))
        assert tap.records('patch', 1)[0].vectors().shape == (2, 9, 16)


def test_every_pass_of_a_step_is_read() -> None:
    backbone, views = vit(MoCoV3ViT), torch.randn(2, 3, 3, 12, 12)
    backbone.eval()
    tap = attached(backbone)
    expected = []
    for images in views:
        with tap.recording():
            backbone(images)
            expected.append(tap.record('maps', 2).vectors())
    with tap.recording():
        for images in views:
            backbone(images)
        records = tap.records('maps', 2)
        assert all(torch.equal(record.vectors(), alone)
                   for record, alone in zip(records, expected, strict=True))
        with pytest.raises(ValueError, match='MoCoV3ViT was called 2 times in one step'):
            tap.record('patch', 2)
    with tap.recording():  # the next step
        backbone(views[0])
        assert torch.equal(tap.record('maps', 2).vectors(), expected[0])


def test_gradients_of_a_loss_are_those_of_every_pass() -> None:
    backbone, views = vit(), torch.randn(2, 3, 3, 12, 12)
    backbone.eval()
    tap = attached(backbone)
    with tap.recording():
        loss = sum(factor * backbone(images)[0].square().mean()
                   for factor, images in enumerate(views, start=1))
        both = tap.gradient_records(1, loss)
    with tap.recording():
        alone, = tap.gradient_records(1, 2 * backbone(views[1])[0].square().mean())
    assert len(both) == 2
    torch.testing.assert_close(both[1].vectors(), alone.vectors())
