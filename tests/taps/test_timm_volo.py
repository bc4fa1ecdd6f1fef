"""timm's VOLO: outlookers."""
import pytest
import torch

from mmdiverse.taps import build_tap
from mmdiverse.taps.base import Weights
from tests.taps.families import attached
from tests.taps.families.timm_volo import volo


def test_outlookers_are_blocks_too() -> None:
    backbone = volo(outlook_attention=(True, False))
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        shapes = [tap.record('patch', layer).shape for layer in ('embed', 0, 1, 2)]
        assert shapes == [(2, 16, 16)] * 3 + [(2, 4, 32)]
        assert tap.record('maps', 2).maps.shape == (2, 4, 4, 4)


def test_outlookers_have_values_but_no_queries() -> None:
    backbone = volo(outlook_attention=(True, False))
    tap = build_tap(backbone)
    record, = tap.records('weight', 0, Weights(('v', )))
    assert torch.equal(record.vectors()[0], backbone.network[0][0].attn.v.weight)
    tap.check_weights(Weights(('v', 'proj', 'fc1', 'fc2')))
    with pytest.raises(ValueError, match=r"from \['v', 'proj', 'fc1', 'fc2'\] in block 0 "
                                         r"\(Outlooker\), but got \['q'\]; `layers` of a "
                                         r"term may be among \[2\]"):
        tap.check_weights(Weights(('q', )))
