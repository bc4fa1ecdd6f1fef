"""EfficientFormer: convolutions, then attention."""
import pytest
import torch
from mmpretrain.models.backbones import EfficientFormer

from mmdiverse.taps import build_tap
from tests.taps.families import attached
from tests.taps.families.efficientformer import efficientformer
from tests.taps.families.family import trained_before_blocks


@pytest.mark.parametrize('arch, blocks', [('l1', 1), ('l3', 4), ('l7', 8)])
def test_blocks_are_those_with_attention(arch: str, blocks: int) -> None:
    with torch.device('meta'):
        backbone = EfficientFormer(arch)
    assert len(build_tap(backbone).blocks) == blocks


@pytest.mark.parametrize('options', [
    dict(), dict(num_convolutions=0), dict(out_indices=[0, 1, 2, 3], reshape_last_feat=True)])
def test_the_embedding_ends_where_the_first_block_begins(options: dict) -> None:
    tap = attached(efficientformer(**options))
    trained = trained_before_blocks(tap, torch.randn(2, 3, 224, 224))
    assert trained and set(tap.embedding_parameters()) == trained


def test_a_backbone_without_attention_is_refused() -> None:
    arch = dict(layers=[1, 1, 1, 1], embed_dims=[4, 4, 8, 8], vit_num=0,
                downsamples=[False, True, True, True])
    with pytest.raises(ValueError, match='EfficientFormer has no transformer block'):
        build_tap(EfficientFormer(arch))
