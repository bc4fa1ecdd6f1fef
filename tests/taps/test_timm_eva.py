"""timm's Eva and NaFlexVit: heads that share keys, images of another size."""
import pytest
import torch

from mmdiverse.taps import build_tap
from mmdiverse.taps.base import Weights
from tests.taps.families import FAMILIES, attached
from tests.taps.families.timm_eva import naflex

SHARED, = (family for family in FAMILIES if family.name == 'timm-eva-shared-keys')


def test_keys_that_heads_share_are_no_matrix_of_each() -> None:
    tap = build_tap(SHARED.build())
    tap.check_weights(Weights(('q', 'k', 'v', 'proj')))
    tap.check_weights(Weights(('q', 'proj'), per_head=True))
    with pytest.raises(ValueError, match=r"heads of this Eva share keys and values "
                                         r".*of \['k', 'v'\] of its own; take `matrices` from"):
        tap.check_weights(Weights(per_head=True))


def test_heads_that_share_keys_have_maps_of_their_own() -> None:
    backbone = SHARED.build()
    tap = attached(backbone)
    with tap.recording():
        backbone(SHARED.images())
        first, second = tap.record('maps', 0).maps.unbind(1)
        assert not torch.allclose(first, second)


def test_images_of_another_size_have_other_patches() -> None:
    backbone = naflex()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 48, 24))
        assert tap.record('patch', 2).shape == (2, 18, 32)
        assert tap.record('maps', 2).maps.shape == (2, 2, 21, 21)
