"""LeViT: blocks of two parts, fewer tokens."""
import pytest
import torch

from mmdiverse.taps import build_tap
from mmdiverse.taps.base import Weights
from tests.taps.families import attached
from tests.taps.families.levit import levit


def test_a_block_that_halves_has_more_keys_than_queries() -> None:
    backbone = levit()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 64, 64))
        tokens = [tuple(tap.record('patch', layer).shape) for layer in ('embed', 0, 1, 2, 3)]
        maps = [tuple(tap.record('maps', layer).maps.shape) for layer in (1, 2, 3)]
    assert tokens == [(2, 16, 8)] * 3 + [(2, 4, 16)] * 2
    assert maps == [(2, 2, 16, 16), (2, 2, 4, 16), (2, 2, 4, 4)]


def test_values_may_be_wider_than_queries() -> None:
    matrices = dict(zip('qkv', build_tap(levit()).records('weight', 2, Weights(('q', 'k', 'v')))))
    assert {name: record.shape for name, record in matrices.items()} == \
        dict(q=(1, 8, 8), k=(1, 8, 8), v=(1, 32, 8))


def test_an_attention_without_mlp_is_a_block() -> None:
    backbone = levit(mlp_ratio=0)
    tap = attached(backbone)
    outputs = []
    backbone.stages[0][1].register_forward_hook(
        lambda module, args, output: outputs.append(output))
    with tap.recording():
        backbone(torch.randn(2, 3, 64, 64))
        assert len(tap.blocks) == 4
        assert torch.equal(tap.record('patch', 1).vectors(), outputs[0])
    with pytest.raises(ValueError, match=r"must be taken from \['q', 'k', 'v', 'proj'\] in block 0 "
                                         r"\(LeViTBlock\), but got \['fc1'\]"):
        tap.check_weights(Weights(('fc1', )))
