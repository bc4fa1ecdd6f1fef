"""Masked image modelling: patches for which a token stands, and those that are left out."""
import pytest
import torch
from mmpretrain.models.selfsup import (
    BEiTPretrainViT,
    CAEPretrainViT,
    MAEViT,
    MaskFeatViT,
    iTPNHiViT,
)
from torch import Tensor, nn

from mmdiverse.image_mask import ImageMask
from mmdiverse.taps.base import HEADS
from tests.taps.families import attached
from tests.taps.families.beit import beit
from tests.taps.families.hivit import hivit
from tests.taps.families.masked import simmim
from tests.taps.families.vit import vit

#: Of nine patches of each image those that are masked: two, two others, and all but one.
MASK = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0, 1],
                     [1, 1, 1, 1, 1, 1, 1, 0, 1]])
BACKBONES = {
    'beit': lambda: beit(BEiTPretrainViT),
    'maskfeat': lambda: vit(MaskFeatViT),
    'itpn': lambda: hivit(iTPNHiViT, reconstruction_type='clip'),
}
every_backbone = pytest.mark.parametrize('name', BACKBONES)


def images(side: int = 12) -> Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def build(name: str) -> nn.Module:
    backbone = BACKBONES[name]()
    backbone.eval()
    return backbone


@every_backbone
@pytest.mark.parametrize('layer', ['embed', 0, -1])
@pytest.mark.parametrize('named', [False, True])
def test_no_mask_token_enters_a_record_of_patches(name: str, layer: int | str, named: bool
                                                  ) -> None:
    backbone = build(name)
    tap = attached(backbone)
    layer = layer if layer == 'embed' else layer % len(tap.blocks)
    with tap.recording():
        backbone(images(), mask=MASK) if named else backbone(images(), MASK)
        tokens = tap._captured['patch', layer][:, tap.num_prefix:]
        record, = tap.records('patch', layer)  # the third image has but one patch left
        visible = [tokens[index][MASK[index] == 0] for index in range(2)]
        assert torch.equal(record.vectors(), torch.stack(visible))


@every_backbone
def test_every_pass_has_a_mask_of_its_own(name: str) -> None:
    backbone = build(name)
    tap = attached(backbone)
    with tap.recording():
        for mask in (MASK, 0 * MASK):
            backbone(images(), mask)
        shapes = [record.shape[:2] for record in tap.records('patch', 0)]
    assert shapes == [(2, 7), (3, 9)]


@every_backbone
@pytest.mark.parametrize('source', HEADS)
def test_attention_level_keeps_mask_tokens(name: str, source: str) -> None:
    backbone = build(name)
    tap = attached(backbone)
    with tap.recording():
        backbone(images(), MASK)
        record, = tap.records(source, 1)
        assert record.shape[0] == 3 and record.num_tokens == tap.num_prefix + 9


@every_backbone
def test_all_patches_count_where_there_is_no_mask(name: str) -> None:
    backbone = build(name)
    tap = attached(backbone)
    with tap.recording():
        backbone(images(), MASK)
    with tap.recording():
        backbone(images(), mask=None)
        assert tap.records('patch', 0)[0].shape[:2] == (3, 9)


def test_gradients_of_a_loss_leave_masked_patches_out() -> None:
    backbone = build('beit')
    tap = attached(backbone)
    with tap.recording():
        loss = backbone(images(), MASK)[0].square().mean()
        assert tap.gradient_records(1, loss)[0].shape == (2, 7, 16)


def test_padding_and_masks_go_together() -> None:
    backbone = build('beit')
    tap = attached(backbone)
    with tap.recording(ImageMask([(12, 12), (8, 12), (12, 12)], (12, 12))):
        backbone(images(), MASK)
        counts = [record.shape[:2] for record in tap.records('patch', 0)]
    assert counts == [(1, 5), (1, 7)]


@pytest.mark.parametrize(('layer', 'masked'), [
    ('embed', [0, 5 * 14 + 8]), (1, [0, 5 * 14 + 8]), (2, [0, 2 * 7 + 4])])
def test_a_token_merged_of_a_masked_patch_is_left_out(layer: int | str, masked: list[int]) -> None:
    backbone = simmim()
    backbone.eval()
    tap, mask = attached(backbone), torch.zeros(3, 14, 14)
    mask[:, 0, 0] = mask[:, 5, 8] = 1
    with tap.recording():
        backbone(images(56), mask)
        tokens = tap._captured['patch', layer]
        left = [index for index in range(tokens.size(1)) if index not in masked]
        assert torch.equal(tap.records('patch', layer)[0].vectors(), tokens[:, left])


def test_patches_that_mae_keeps_are_read_in_its_order() -> None:
    backbone = vit(MAEViT, mask_ratio=0.5)
    backbone.eval()
    tap = attached(backbone)
    with tap.recording():
        _, _, restore = backbone(images())
        kept = restore.argsort(1)[:, :4, None].expand(-1, -1, 16)
        patches = backbone.patch_embed(images())[0] + backbone.pos_embed[:, 1:]
        assert torch.equal(tap.records('patch', 'embed')[0].vectors(), patches.gather(1, kept))
        assert tap.records('maps', 1)[0].maps.shape == (3, 2, 5, 5)


def test_patches_that_cae_keeps_are_read() -> None:
    backbone = beit(CAEPretrainViT, use_rel_pos_bias=False, use_abs_pos_emb=True,
                    layer_scale_init_value=0.1)
    backbone.eval()
    tap, mask = attached(backbone), MASK[:1].repeat(3, 1).bool()
    with tap.recording():
        backbone(images(), mask)
        patches = backbone.patch_embed(images())[0] + backbone.pos_embed[:, 1:]
        assert torch.equal(tap.records('patch', 'embed')[0].vectors(), patches[:, 2:])
        assert tap.records('patch', 1)[0].shape == (3, 7, 16)


def test_patches_that_itpn_keeps_are_read() -> None:
    backbone = hivit(iTPNHiViT, mask_ratio=0.5)
    backbone.eval()
    tap = attached(backbone)
    with tap.recording():
        (*_, tokens), _, _ = backbone(images())
        assert torch.equal(tap.records('patch', 3)[0].vectors(), tokens)


def test_padding_is_refused_where_the_place_of_patches_is_lost() -> None:
    backbone = vit(MAEViT, mask_ratio=0.5)
    tap = attached(backbone)
    with tap.recording(ImageMask([(12, 12), (8, 12), (12, 12)], (12, 12))):
        backbone(images())
        with pytest.raises(ValueError, match='there are 4 tokens, but .* make 9: .*what it masks'):
            tap.records('patch', 0)


