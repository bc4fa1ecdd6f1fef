"""Cross-entropy of tokens against mixed and smoothed labels."""
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.losses import LabelSmoothLoss
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmdiverse.mixing import (
    PatchMixingLoss,
    cross_entropy,
    linear_patch_mixing_cross_entropy,
    patch_mixing_cross_entropy,
)
from tests import reference

B, T, D, C = 3, 4, 6, 5
# The second image is mixed with one of its own class.
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


def test_share_of_the_image(logits: Tensor, shares: Tensor) -> None:
    tokens = patch_mixing_cross_entropy(logits, LABEL, MIX_LABEL, shares)
    inputs = logits, LABEL, MIX_LABEL, shares[:, 0], shares[:, 1:]
    torch.testing.assert_close(PatchMixingLoss(image_share=0.3)(*inputs),
                               0.3 * tokens[:, 0].mean() + 0.7 * tokens[:, 1:].mean())
    torch.testing.assert_close(PatchMixingLoss(image_share=1 / logits.size(1))(*inputs),
                               PatchMixingLoss()(*inputs))


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


@pytest.mark.parametrize('share', [-0.1, 1.1])
def test_share_of_the_image_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match=r'`image_share` must be in \[0, 1\], but got'):
        PatchMixingLoss(image_share=share)


@pytest.fixture
def linear_inputs() -> list[Tensor]:
    """Features, weight and bias."""
    torch.manual_seed(2)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True)
            for shape in ((B, T, D), (C, D), (C, ))]


def of_all_logits(features: Tensor, weight: Tensor, bias: Tensor | None, shares: Tensor,
                  smoothing: float = 0.) -> Tensor:
    return patch_mixing_cross_entropy(F.linear(features, weight, bias), LABEL, MIX_LABEL, shares,
                                      smoothing).mean()


def of_some_logits(features: Tensor, weight: Tensor, bias: Tensor | None, shares: Tensor,
                   smoothing: float = 0.) -> Tensor:
    return linear_patch_mixing_cross_entropy(features, weight, bias, LABEL, MIX_LABEL, shares,
                                             smoothing)


@smoothings
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('entries', [1, 5 * C, 10**6])
def test_chunks_of_tokens_equal_all_logits(linear_inputs: list[Tensor], shares: Tensor,
                                           smoothing: float, with_bias: bool, entries: int,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, 'MAX_ENTRIES_CPU', entries)
    inputs = linear_inputs if with_bias else linear_inputs[:2]
    args = *inputs, *[None] * (not with_bias), shares, smoothing
    actual, expected = of_some_logits(*args), of_all_logits(*args)
    torch.testing.assert_close(actual, expected)
    # Of three times the value, because a loss is weighted.
    torch.testing.assert_close(torch.autograd.grad(3 * actual, inputs),
                               torch.autograd.grad(3 * expected, inputs))


@smoothings
def test_gradient_of_some_logits(linear_inputs: list[Tensor], shares: Tensor, smoothing: float
                                 ) -> None:
    assert torch.autograd.gradcheck(lambda *inputs: of_some_logits(*inputs, shares, smoothing),
                                    linear_inputs)


@smoothings
def test_second_derivative_of_some_logits(linear_inputs: list[Tensor], shares: Tensor,
                                          smoothing: float) -> None:
    assert torch.autograd.gradgradcheck(
        lambda *inputs: of_some_logits(*inputs, shares, smoothing), linear_inputs)


@pytest.mark.parametrize('frozen', range(3))
def test_what_is_frozen_gets_no_gradient(linear_inputs: list[Tensor], shares: Tensor, frozen: int
                                         ) -> None:
    expected = torch.autograd.grad(of_all_logits(*linear_inputs, shares), linear_inputs)
    linear_inputs[frozen].requires_grad_(False)
    of_some_logits(*linear_inputs, shares).backward()
    for index, (leaf, grad) in enumerate(zip(linear_inputs, expected)):
        torch.testing.assert_close(leaf.grad, None if index == frozen else grad)


def test_nothing_as_large_as_the_logits_is_kept_for_the_backward_pass() -> None:
    images, tokens, classes = 3, 50, 100
    features = torch.randn(images, tokens, D, requires_grad=True)
    weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((classes, D), classes))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x,
                                                  lambda x: x):
        linear_patch_mixing_cross_entropy(features, weight, bias, LABEL, MIX_LABEL,
                                          torch.rand(images, tokens), 0.1)
    assert max(kept) == features.numel()


def half_precision_grads(function: Callable, inputs: list[Tensor], shares: Tensor
                         ) -> tuple[Tensor, ...]:
    """Value and gradients under autocast."""
    with torch.autocast('cpu', torch.bfloat16):
        value = function(*inputs, shares, 0.1)
    return value, *torch.autograd.grad(value, inputs)


def test_autocast_equals_that_of_the_layer(linear_inputs: list[Tensor], shares: Tensor) -> None:
    inputs = [leaf.detach().float().requires_grad_() for leaf in linear_inputs]
    actual = half_precision_grads(of_some_logits, inputs, shares)
    expected = half_precision_grads(of_all_logits, inputs, shares)
    assert {tensor.dtype for tensor in actual} == {torch.float32}
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[1:], expected[1:], rtol=2**-6, atol=2**-9)


def test_half_precision_weights(linear_inputs: list[Tensor], shares: Tensor) -> None:
    inputs = [leaf.detach().bfloat16().requires_grad_() for leaf in linear_inputs]
    value = of_some_logits(*inputs, shares)
    grads = torch.autograd.grad(value, inputs)
    assert value.dtype == torch.float32 and {grad.dtype for grad in grads} == {torch.bfloat16}
    expected = torch.autograd.grad(of_all_logits(*inputs, shares), inputs)
    torch.testing.assert_close(grads, expected, rtol=2**-6, atol=2**-9)


def test_chunks_of_a_half_precision_gradient_are_summed_in_float32(
        monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    monkeypatch.setattr(cross_entropy, 'MAX_ENTRIES_CPU', 1)
    features, shares = torch.randn(B, 200, D).bfloat16(), torch.ones(B, 200)
    weight = torch.randn(C, D).bfloat16().requires_grad_()
    actual, = torch.autograd.grad(of_some_logits(features, weight, None, shares), weight)
    expected, = torch.autograd.grad(
        of_all_logits(features.double(), weight.double(), None, shares), weight)
    assert (actual - expected).norm() < 2**-8 * expected.norm()


def loss_of_layer(classifier: nn.Module, features: Tensor, shares: Tensor,
                  image_share: float | None = None) -> Tensor:
    return PatchMixingLoss(0.1, 3., image_share).from_features(
        features, classifier, LABEL, MIX_LABEL, shares[:, 0], shares[:, 1:])


def expected_loss_of_layer(classifier: nn.Module, features: Tensor, shares: Tensor,
                           image_share: float | None = None) -> Tensor:
    return PatchMixingLoss(0.1, 3., image_share)(classifier(features), LABEL, MIX_LABEL,
                                                 shares[:, 0], shares[:, 1:])


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(D, C).double()


@pytest.mark.parametrize('image_share', [None, 0.3])
def test_loss_of_a_layer_is_that_of_its_logits(layer: nn.Linear, linear_inputs: list[Tensor],
                                               shares: Tensor, image_share: float | None,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    expected = expected_loss_of_layer(layer, linear_inputs[0], shares, image_share)
    monkeypatch.setattr(PatchMixingLoss, 'forward', None)
    torch.testing.assert_close(loss_of_layer(layer, linear_inputs[0], shares, image_share),
                               expected)


class Doubled(nn.Linear):
    """A layer that is more than its weight."""

    def forward(self, features: Tensor) -> Tensor:
        return 2 * super().forward(features)


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def changed(layer: nn.Linear, how: str) -> nn.Module:
    if how == 'subclass':
        return Doubled(D, C).double()
    if how == 'wrapper':
        return nn.Sequential(layer, nn.Tanh())
    if how == 'parametrization':
        return parametrize.register_parametrization(layer, 'weight', Half())
    if how == 'hook before':
        layer.register_forward_pre_hook(lambda _, inputs: 2 * inputs[0])
    else:
        layer.register_forward_hook(lambda _, inputs, output: 2 * output)
    return layer


@pytest.mark.parametrize('how', ['subclass', 'wrapper', 'parametrization', 'hook before', 'hook'])
def test_a_changed_layer_is_called(layer: nn.Linear, linear_inputs: list[Tensor], shares: Tensor,
                                   how: str) -> None:
    classifier = changed(layer, how)
    torch.testing.assert_close(loss_of_layer(classifier, linear_inputs[0], shares),
                               expected_loss_of_layer(classifier, linear_inputs[0], shares))


def test_a_backward_hook_of_the_layer_is_called(layer: nn.Linear, linear_inputs: list[Tensor],
                                                shares: Tensor) -> None:
    calls = []
    layer.register_full_backward_hook(lambda *args: calls.append(args))
    loss_of_layer(layer, linear_inputs[0], shares).backward()
    assert len(calls) == 1


@pytest.mark.parametrize('scale', [2.**16, 1., 2.**-10])
@pytest.mark.parametrize('autocast', [True, False])
def test_float16_has_room_for_the_gradient_at_any_loss_scale(scale: float, autocast: bool) -> None:
    # Of so many tokens with one large feature, the sum before its division is beyond 65504.
    images, tokens, dim = 32, 576, 8
    label, mix_label = torch.randint(C, (2, images))
    shares = torch.rand(images, tokens)
    inputs = [torch.randn(images, tokens, dim), 0.1 * torch.randn(C, dim), torch.zeros(C)]
    inputs[0][..., 0] += 20

    def gradients(function: Callable[..., Tensor], dtype: torch.dtype, scale: float
                  ) -> list[Tensor]:
        half = dtype == torch.float16
        own = [x.to(torch.float32 if half and autocast else dtype, copy=True).requires_grad_()
               for x in inputs]
        with torch.autocast('cpu', torch.float16, enabled=half and autocast):
            value = function(*own)
        return [grad.double() / scale for grad in torch.autograd.grad(scale * value, own)]

    def in_chunks(*own: Tensor) -> Tensor:
        return linear_patch_mixing_cross_entropy(*own, label, mix_label, shares, 0.1)

    def plainly(features: Tensor, *linear: Tensor) -> Tensor:
        return patch_mixing_cross_entropy(F.linear(features, *linear), label, mix_label, shares,
                                          0.1).mean()

    actual, expected = (gradients(in_chunks, torch.float16, scale),
                        gradients(plainly, torch.float64, 1.))
    # What is in float16 itself needs the loss scale for its small gradients, and no more of it
    # than its large ones have room for.
    compared = range(3) if autocast else {2.**16: (0, 2), 1.: (1, 2), 2.**-10: (1, 2)}[scale]
    for index in compared:
        error = (actual[index] - expected[index]).norm() / expected[index].norm()
        assert error < 2e-3
