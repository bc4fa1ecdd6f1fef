"""Cross-entropy of every token against its own mixture of two labels."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..precision import at_least_float32, without_autocast
from ..registry import MODELS

#: Logits that exist at a time. On a CPU few, so that they stay in its cache from one operation to
#: the next; elsewhere many, so that every operation has enough to do.
MAX_ENTRIES_CPU = 2**20
MAX_ENTRIES = 2**24

#: Factor of gradients while they are in float16, whose numbers end at 6e-8 and at 65504. They are
#: at most 1 with respect to a logit, and a class has as good as no weight above 100.
FLOAT16_GAIN = 2**8


def patch_mixing_cross_entropy(logits: Tensor, label: Tensor, mix_label: Tensor, shares: Tensor,
                               label_smooth_val: float = 0.) -> Tensor:
    r"""Cross-entropy of tokens against mixed and smoothed labels.

    .. math::
        \mathrm{CE} = \mathrm{lse}(z) - (1 - \epsilon)
        \big(\lambda z_a + (1 - \lambda) z_b\big) - \epsilon\, \overline{z}

    which is the cross-entropy against :math:`(1 - \epsilon)(\lambda \mathbb 1_a + (1 - \lambda)
    \mathbb 1_b) + \epsilon / C`, without that ``(B, T, C)`` target ever existing.

    Args:
        logits (Tensor): ``z``, ``(B, T, C)``.
        label (Tensor): ``a``, ``(B,)``, the images' own classes.
        mix_label (Tensor): ``b``, ``(B,)``, the partners' classes.
        shares (Tensor): ``lambda``, ``(B, T)`` in [0, 1].
        label_smooth_val (float): ``epsilon`` in [0, 1).

    Returns:
        Tensor: ``(B, T)``, at least 0.
    """
    logits = at_least_float32(logits)
    shares = shares.to(logits)
    index = _label_pairs(label, mix_label, logits.size(1))
    own, other = logits.gather(-1, index).unbind(-1)
    target = other + shares * (own - other)
    loss = logits.logsumexp(-1) - (1 - label_smooth_val) * target
    if label_smooth_val:
        loss = loss - label_smooth_val * logits.mean(-1)
    return loss


def _label_pairs(label: Tensor, mix_label: Tensor, tokens: int) -> Tensor:
    """Both labels of every token, ``(B, T, 2)``."""
    return torch.stack((label, mix_label), dim=-1)[:, None].expand(-1, tokens, -1)


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``n`` tokens; see :func:`linear_patch_mixing_cross_entropy`.

    The target of a token is ``targets``, ``(n, 2)``, at the classes ``index``, ``(n, 2)``, plus
    ``spread`` at every class.

    The mean's ``1 / n``, and with it the loss scale, is left to the backward pass. In float16
    gradients of single tokens are multiplied by :data:`FLOAT16_GAIN`, and their sum over tokens,
    the gradient of the weight, is taken in float32: it may be beyond float16 before it is divided.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor,
                targets: Tensor, spread: float) -> Tensor:
        ctx.dtypes = [None if x is None else x.dtype for x in (features, weight, bias)]
        ctx.spread, inputs = spread, (features, weight, bias, index, targets)
        needs = ctx.needs_input_grad
        grad_features = torch.empty_like(features) if needs[0] else None
        grad_weight = torch.zeros_like(weight, dtype=targets.dtype) if needs[1] else None
        grad_bias = torch.zeros_like(bias, dtype=targets.dtype) if needs[2] else None
        # Autocast of older torch would cache its cast of a parameter without the cast's graph, and
        # the next layer to use that parameter would train it no more (pytorch/pytorch#112583).
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        value = targets.new_zeros(())
        entries = MAX_ENTRIES_CPU if features.device.type == 'cpu' else MAX_ENTRIES
        half = _computes_in_float16(features)
        ctx.gain = FLOAT16_GAIN if half else 1
        # In float32, some features exist once more.
        size = max(1, entries // (max(weight.shape) if half else len(weight)))
        for start in range(0, len(features), size):
            part = slice(start, start + size)
            logits = F.linear(features[part], weight, bias)
            log_p = at_least_float32(logits).log_softmax(-1)
            value -= (targets[part] * log_p.gather(-1, index[part])).sum()
            if spread:
                value -= spread * log_p.sum()
            if not any(needs):
                continue
            # With respect to the logits: the probabilities minus the target.
            grad = log_p.exp_()
            if spread:
                grad -= spread
            # Added one by one, because both labels may be the same.
            grad.scatter_add_(-1, index[part], -targets[part])
            if needs[2]:
                grad_bias += grad.sum(0)
            if needs[1] and half:
                with without_autocast(features.device):
                    grad_weight += grad.mT @ features[part].float()
            grad = (grad * ctx.gain).to(logits.dtype)
            if needs[0]:
                grad_features[part] = grad @ weight
            if needs[1] and not half:
                grad_weight += grad.mT @ features[part]
        ctx.save_for_backward(grad_features, grad_weight, grad_bias, *inputs)
        return value / len(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *grads, features, weight, bias, index, targets = ctx.saved_tensors
        gain = ctx.gain
        if torch.is_grad_enabled():  # `create_graph`: the gradient will be differentiated itself
            grads = _LinearCrossEntropy.differentiable_gradients(
                ctx.needs_input_grad[:3], features, weight, bias, index, targets, ctx.spread)
            gain = 1
        factor = grad / len(features)
        factors = (factor / gain, factor, factor)
        return *(None if each is None else (factor * at_least_float32(each)).to(dtype)
                 for factor, each, dtype in zip(factors, grads, ctx.dtypes)), None, None, None

    @staticmethod
    def differentiable_gradients(needs: Sequence[bool], features: Tensor, weight: Tensor,
                                 bias: Tensor | None, index: Tensor, targets: Tensor,
                                 spread: float) -> list[Tensor | None]:
        """The gradients of the forward pass once more, all logits at a time."""
        inputs = [x for x, needed in zip((features, weight, bias), needs) if needed]
        log_p = F.linear(*(None if x is None else at_least_float32(x)
                           for x in (features, weight, bias))).log_softmax(-1)
        loss = -(targets * log_p.gather(-1, index)).sum() - spread * log_p.sum()
        grads = iter(torch.autograd.grad(loss, inputs, create_graph=True))
        return [next(grads) if needed else None for needed in needs]


def _computes_in_float16(features: Tensor) -> bool:
    """Whether a linear layer gives float16, by its input or by autocast."""
    kind = features.device.type
    if torch.is_autocast_enabled(kind) and features.dtype != torch.float64:
        return torch.get_autocast_dtype(kind) == torch.float16
    return features.dtype == torch.float16


def linear_patch_mixing_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor | None,
                                      label: Tensor, mix_label: Tensor, shares: Tensor,
                                      label_smooth_val: float = 0.) -> Tensor:
    r"""Mean of :func:`patch_mixing_cross_entropy` over tokens that a linear layer classifies.

    .. math:: \frac{1}{B T} \sum_{b, t} \mathrm{CE}(W x_{bt} + w_0)

    Logits exist for a few tokens at a time, and with them their share of the gradient is computed,
    so that nothing larger than ``features`` or ``weight`` is kept for the backward pass.

    Args:
        features (Tensor): ``x``, ``(B, T, D)``.
        weight (Tensor): ``W``, ``(C, D)``.
        bias (Tensor, optional): ``w_0``, ``(C,)``.
        label (Tensor): ``(B,)``, the images' own classes.
        mix_label (Tensor): ``(B,)``, the partners' classes.
        shares (Tensor): ``(B, T)`` in [0, 1]; gets no gradient.
        label_smooth_val (float): In [0, 1).

    Returns:
        Tensor: A scalar, at least 0. It can be differentiated twice; then all logits do exist.
    """
    shares = shares.to(features.device, torch.promote_types(features.dtype, torch.float32))
    targets = (1 - label_smooth_val) * torch.stack((shares, 1 - shares), dim=-1)
    index = _label_pairs(label, mix_label, features.size(1))
    if not torch.is_grad_enabled():  # or gradients would be found that nobody asks for
        features, weight = features.detach(), weight.detach()
        bias = None if bias is None else bias.detach()
    return _LinearCrossEntropy.apply(
        features.flatten(0, 1), weight, bias, index.flatten(0, 1), targets.flatten(0, 1),
        label_smooth_val / len(weight))


@MODELS.register_module()
class PatchMixingLoss(nn.Module):
    r"""Mean of the cross-entropies of an image and of all its patches.

    .. math:: s\, \mathrm{CE}_\text{image} + \frac{1 - s}{N} \sum_{i=1}^N \mathrm{CE}_i

    averaged over the batch; see :func:`patch_mixing_cross_entropy`. By default
    :math:`s = 1 / (1 + N)`: the image as a whole, from which predictions are made, counts as much
    as one patch, as in the authors' code. It lags behind its patches then: in 40 epochs of a small
    study, one seed, accuracy was 42.8 % with the default, 46.3 % with a share of 0.5 and 48.6 %
    without this loss (``docs/study.md``).

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), mixing loss; the share is ours.

    Args:
        label_smooth_val (float): Label smoothing. Defaults to 0.
        loss_weight (float): Factor of the loss. Defaults to 1.
        image_share (float, optional): ``s`` in [0, 1]. Defaults to None: 1 / (1 + N).

    Raises:
        ValueError: If ``label_smooth_val`` is not in [0, 1), or ``image_share`` not in [0, 1].
    """

    def __init__(self, label_smooth_val: float = 0., loss_weight: float = 1.,
                 image_share: float | None = None) -> None:
        super().__init__()
        if not 0 <= label_smooth_val < 1:
            raise ValueError(f'`label_smooth_val` must be in [0, 1), but got {label_smooth_val}')
        if image_share is not None and not 0 <= image_share <= 1:
            raise ValueError(f'`image_share` must be in [0, 1], but got {image_share}')
        self.label_smooth_val = label_smooth_val
        self.loss_weight = loss_weight
        self.image_share = image_share

    def forward(self, logits: Tensor, label: Tensor, mix_label: Tensor, lam: Tensor,
                patch_shares: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits (Tensor): ``(B, 1 + N, C)``, of the image and of its patches.
            label (Tensor): ``(B,)``.
            mix_label (Tensor): ``(B,)``.
            lam (Tensor): ``(B,)``, share of the image that is its own.
            patch_shares (Tensor): ``(B, N)``, the same of every patch.

        Returns:
            Tensor: A scalar.
        """
        return self._average(
            lambda logits, shares: patch_mixing_cross_entropy(
                logits, label, mix_label, shares, self.label_smooth_val).mean(),
            logits, lam, patch_shares)

    def from_features(self, features: Tensor, classifier: nn.Module, label: Tensor,
                      mix_label: Tensor, lam: Tensor, patch_shares: Tensor) -> Tensor:
        """Compute the loss of ``classifier(features)``, whose logits need not all exist at a time.

        Args:
            features (Tensor): ``(B, 1 + N, D)``, of the image and of its patches.
            classifier (nn.Module): Makes logits of them; usually an ``nn.Linear``.
            label (Tensor): ``(B,)``.
            mix_label (Tensor): ``(B,)``.
            lam (Tensor): ``(B,)``, share of the image that is its own.
            patch_shares (Tensor): ``(B, N)``, the same of every patch.

        Returns:
            Tensor: A scalar.
        """
        # Who wrapped, parametrized or hooked the layer counts on its call; its weight alone would
        # silently be another classifier.
        hooks = (classifier._forward_pre_hooks, classifier._forward_hooks,
                 classifier._backward_pre_hooks, classifier._backward_hooks)
        if type(classifier) is not nn.Linear or any(hooks):
            return self(classifier(features), label, mix_label, lam, patch_shares)
        return self._average(
            lambda features, shares: linear_patch_mixing_cross_entropy(
                features, classifier.weight, classifier.bias, label, mix_label, shares,
                self.label_smooth_val),
            features, lam, patch_shares)

    def _average(self, mean: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, lam: Tensor,
                 patch_shares: Tensor) -> Tensor:
        """The loss, by what gives the mean over tokens ``(B, T, D)`` with shares ``(B, T)``."""
        lam = lam.to(patch_shares)[:, None]
        if self.image_share is None:
            loss = mean(tokens, torch.cat((lam, patch_shares), dim=1))
        else:
            loss = (self.image_share * mean(tokens[:, :1], lam)
                    + (1 - self.image_share) * mean(tokens[:, 1:], patch_shares))
        return self.loss_weight * loss
