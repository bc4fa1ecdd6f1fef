"""RevVisionTransformer: two streams, and a way back of its own."""
import pytest
import torch

from mmdiverse.taps import build_tap
from mmdiverse.taps.base import HEADS
from tests.taps.families import attached
from tests.taps.families.revvit import FAMILIES, revvit

REVVIT = FAMILIES[0]


@pytest.mark.parametrize('source', ['patch', *HEADS])
def test_the_reversible_way_back_is_refused_in_training(source: str) -> None:
    backbone = revvit(no_custom_backward=False)
    tap = attached(backbone)
    with tap.recording():
        backbone(REVVIT.images())
        with pytest.raises(RuntimeError, match='has no gradient.* `no_custom_backward=True`'):
            tap.records(source, 1)


@pytest.mark.parametrize('source', ['patch', *HEADS])
def test_the_reversible_way_back_is_no_matter_in_evaluation(source: str) -> None:
    read = []
    for vanilla in (True, False):
        backbone = REVVIT.build()
        backbone.no_custom_backward = vanilla
        tap = attached(backbone)
        with tap.recording():
            backbone(REVVIT.images())
            read.append(tap.records(source, 1)[0].vectors())
    assert torch.equal(*read)


def test_weights_train_with_the_reversible_way_back() -> None:
    backbone = revvit(no_custom_backward=False)
    record, = build_tap(backbone).records('weight', 0)
    record.vectors().square().sum().backward()
    assert backbone.layers[0].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('vanilla', [False, True])
def test_gradients_of_the_model_are_the_same_with_a_tap(vanilla: bool) -> None:
    gradients = []
    for tapped in (False, True):
        backbone = REVVIT.build()
        backbone.no_custom_backward = vanilla
        backbone.train()
        tap = attached(backbone)
        if tapped:
            tap.start()
        loss = backbone(REVVIT.images())[0].square().sum()
        tap.stop()
        loss.backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_a_token_has_both_streams() -> None:
    backbone, streams = REVVIT.build(), []
    backbone.layers[1].register_forward_hook(lambda module, args, output: streams.extend(output))
    tap = attached(backbone)
    with tap.recording():
        backbone(REVVIT.images())
        assert torch.equal(tap.records('patch', 1)[0].vectors(), torch.cat(streams, dim=-1))
        first, second = tap.records('patch', 'embed')[0].vectors().chunk(2, dim=-1)
        assert torch.equal(first, second)
