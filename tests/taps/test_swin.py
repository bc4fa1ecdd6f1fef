"""SwinTransformer: stages, windows, padding."""
import pytest
import torch
from mmpretrain.models.utils import WindowMSAV2

from mmdiverse.taps import build_tap
from tests.taps.families import attached
from tests.taps.families.swin import swin


def test_blocks_are_counted_through_the_stages() -> None:
    backbone = swin()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 16, 16))
        shapes = [tuple(tap.records('patch', layer)[0].vectors().shape)
                  for layer in ('embed', 0, 1, 2, 3)]
    assert shapes == [(2, 64, 8)] * 3 + [(2, 16, 16)] * 2


def test_every_window_is_an_item_of_the_batch() -> None:
    backbone = swin()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(3, 3, 16, 16))
        shapes = [tuple(tap.records('maps', layer)[0].maps.shape) for layer in (0, 2)]
    assert shapes == [(12, 2, 16, 16), (3, 4, 16, 16)]


def test_tokens_that_a_shift_brought_together_do_not_see_each_other() -> None:
    backbone = swin()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(1, 3, 16, 16))
        plain, shifted = (tap.records('maps', layer)[0].maps for layer in (0, 1))
    # The last window of a shifted grid joins the four corners: 4 x 4 pairs of 16 x 16 remain.
    assert (plain > 1e-12).all() and (shifted[-1, 0] > 1e-12).float().mean() == 1 / 4


def test_a_single_record_is_refused_where_windows_are_padded() -> None:
    backbone = swin(img_size=12, pad_small_map=True)  # 6 x 6 tokens in windows of 4
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(1, 3, 12, 12))
        with pytest.raises(ValueError, match='padding leaves windows with different numbers of '
                                             'tokens in block 0 .*`window_size`'):
            tap.record('maps', 0)
        # 3 x 3 tokens in one window: padded, but all of them alike.
        assert tap.record('maps', 2).maps.shape == (1, 4, 9, 9)


def test_padding_does_not_matter_at_patch_level() -> None:
    backbone = swin(img_size=12, pad_small_map=True)
    tap = build_tap(backbone)
    tap.attach([('patch', 0)])
    with tap.recording():
        backbone(torch.randn(1, 3, 12, 12))
        assert tap.records('patch', 0)[0].vectors().shape == (1, 36, 8)


def test_windowed_attention_of_another_kind_is_refused() -> None:
    backbone = swin(stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(window_msa=WindowMSAV2))))
    with pytest.raises(ValueError, match="is a WindowMSAV2, .*drop the terms with "
                                         "`on='attention'`"):
        build_tap(backbone).attach([('maps', 0)])


def test_views_of_two_sizes_have_windows_of_their_own() -> None:
    backbone = swin(pad_small_map=True)
    backbone.eval()
    tap = attached(backbone)
    expected = []
    views = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 12, 12)
    for images in views:  # windows divide the tokens of the first alone
        with tap.recording():
            backbone(images)
            expected.append([record.shape for record in tap.records('maps', 0)])
    with tap.recording():
        for images in views:
            backbone(images)
        shapes = [record.shape for record in tap.records('maps', 0)]
    assert shapes == expected[0] + expected[1] and len(expected[1]) > 1
