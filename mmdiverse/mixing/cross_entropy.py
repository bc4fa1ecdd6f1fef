"""Cross-entropy of every token against its own mixture of two labels."""
import torch
from torch import Tensor, nn

from ..records import at_least_float32
from ..registry import MODELS


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
    index = torch.stack((label, mix_label), dim=-1)[:, None].expand(-1, logits.size(1), -1)
    own, other = logits.gather(-1, index).unbind(-1)
    target = other + shares * (own - other)
    loss = logits.logsumexp(-1) - (1 - label_smooth_val) * target
    if label_smooth_val:
        loss = loss - label_smooth_val * logits.mean(-1)
    return loss


@MODELS.register_module()
class PatchMixingLoss(nn.Module):
    r"""Mean of the cross-entropies of an image and of all its patches.

    .. math:: \frac{1}{1 + N} \Big(\mathrm{CE}_\text{image} + \sum_{i=1}^N \mathrm{CE}_i\Big)

    averaged over the batch; see :func:`patch_mixing_cross_entropy`. The image as a whole thus
    counts as much as one patch, as in the authors' code.

    Source: Chen et al., CVPR 2022 (arXiv 2203.06345), mixing loss.

    Args:
        label_smooth_val (float): Label smoothing. Defaults to 0.
        loss_weight (float): Factor of the loss. Defaults to 1.

    Raises:
        ValueError: If ``label_smooth_val`` is not in [0, 1).
    """

    def __init__(self, label_smooth_val: float = 0., loss_weight: float = 1.) -> None:
        super().__init__()
        if not 0 <= label_smooth_val < 1:
            raise ValueError(f'`label_smooth_val` must be in [0, 1), but got {label_smooth_val}')
        self.label_smooth_val = label_smooth_val
        self.loss_weight = loss_weight

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
        shares = torch.cat((lam.to(patch_shares)[:, None], patch_shares), dim=1)
        loss = patch_mixing_cross_entropy(logits, label, mix_label, shares, self.label_smooth_val)
        return self.loss_weight * loss.mean()
