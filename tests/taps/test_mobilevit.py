"""MobileViT: pixels in groups."""
import torch

from tests.taps.families import attached
from tests.taps.families.family import trained_before_blocks
from tests.taps.families.mobilevit import mobilevit


def test_patches_are_those_of_an_image_and_maps_those_of_a_group() -> None:
    backbone = mobilevit()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(3, 3, 32, 32))
        tokens = [tuple(tap.record('patch', layer).shape) for layer in ('embed', 1, 2)]
        maps = [tuple(tap.record('maps', layer).maps.shape) for layer in (1, 2)]
    assert tokens == [(3, 64, 16)] * 2 + [(3, 16, 16)]
    assert maps == [(12, 4, 16, 16), (12, 4, 4, 4)]


def test_groups_of_different_images_are_not_mixed() -> None:
    backbone, images = mobilevit(), torch.randn(3, 3, 32, 32)
    backbone.eval()
    tap = attached(backbone)
    records = []
    for second in (images[1], torch.randn_like(images[1])):
        with tap.recording(), torch.no_grad():
            backbone(torch.stack((images[0], second, images[2])))
            records.append(tap.record('patch', 0).vectors())
    before, after = records
    assert torch.equal(before[::2], after[::2]) and not torch.equal(before[1], after[1])


def test_the_embedding_ends_where_the_first_layer_begins() -> None:
    tap = attached(mobilevit())
    trained = trained_before_blocks(tap, torch.randn(3, 3, 32, 32))
    assert trained and set(tap.embedding_parameters()) == trained
