"""Cross-entropy of tokens against mixed and smoothed labels."""
import pytest
import torch
from mmpretrain.models.losses import LabelSmoothLoss
from torch import Tensor

from mmdiverse.mixing import PatchMixingLoss, patch_mixing_cross_entropy
from tests import reference

B, T, C = 3, 4, 5
LABEL, MIX_LABEL = torch.tensor([0, 4, 2]), torch.tensor([3, 4, 0])

smoothings = pytest.mark.parametrize('smoothing', [0., 0.1])


@pytest.fixture
def logits() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(B, T, C, dtype=torch.float64)


@pytest.fixture
def shares() -> Tensor:
    return torch.rand((B, T), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@smoothings
def test_agrees_with_dense_targets(logits: Tensor, shares: Tensor, smoothing: float) -> None:
    expected = torch.stack([
        torch.stack([reference.mixing_cross_entropy(logits[b, t], int(LABEL[b]), int(MIX_LABEL[b]),
                                                    float(shares[b, t]), smoothing)
                     for t in range(T)]) for b in range(B)])
    torch.testing.assert_close(
        patch_mixing_cross_entropy(logits, LABEL, MIX_LABEL, shares, smoothing), expected)


@smoothings
def test_gradient_is_that_of_the_value(logits: Tensor, shares: Tensor, smoothing: float) -> None:
    assert torch.autograd.gradcheck(
        lambda z: patch_mixing_cross_entropy(z, LABEL, MIX_LABEL, shares, smoothing),
        logits.requires_grad_())


@smoothings
def test_without_patches_it_is_the_loss_of_mmpretrain(logits: Tensor, shares: Tensor,
                                                      smoothing: float) -> None:
    lam = shares[:, 0]
    one_hot = torch.eye(C, dtype=torch.float64)
    score = lam[:, None] * one_hot[LABEL] + (1 - lam[:, None]) * one_hot[MIX_LABEL]
    expected = LabelSmoothLoss(smoothing, mode='original')(logits[:, 0], score)
    torch.testing.assert_close(
        PatchMixingLoss(smoothing)(logits[:, :1], LABEL, MIX_LABEL, lam, shares[:, :0]), expected)


def test_the_image_counts_as_much_as_one_patch(logits: Tensor, shares: Tensor) -> None:
    tokens = patch_mixing_cross_entropy(logits, LABEL, MIX_LABEL, shares)
    torch.testing.assert_close(
        PatchMixingLoss()(logits, LABEL, MIX_LABEL, shares[:, 0], shares[:, 1:]), tokens.mean())


def test_loss_weight_scales_it(logits: Tensor, shares: Tensor) -> None:
    inputs = logits, LABEL, MIX_LABEL, shares[:, 0], shares[:, 1:]
    torch.testing.assert_close(PatchMixingLoss(loss_weight=3.)(*inputs),
                               3 * PatchMixingLoss()(*inputs))


def test_large_logits_are_finite(shares: Tensor) -> None:
    logits = 1e4 * torch.eye(C)[:T].expand(B, T, C)
    assert patch_mixing_cross_entropy(logits, LABEL, MIX_LABEL, shares).isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(logits: Tensor, shares: Tensor, dtype: torch.dtype
                                               ) -> None:
    logits = logits.to(dtype)
    loss = patch_mixing_cross_entropy(logits, LABEL, MIX_LABEL, shares)
    assert torch.equal(loss, patch_mixing_cross_entropy(logits.float(), LABEL, MIX_LABEL, shares))


@pytest.mark.parametrize('smoothing', [-0.1, 1.])
def test_smoothing_out_of_range(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r'`label_smooth_val` must be in \[0, 1\)'):
        PatchMixingLoss(label_smooth_val=smoothing)
