"""Heads that classify every patch with the weights that classify the image."""
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.heads import LinearClsHead, VisionTransformerClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..registry import MODELS
from .cross_entropy import PatchMixingLoss


def patch_mixing_loss(loss_module: nn.Module, features: Tensor, classifier: nn.Module,
                      data_samples: list[DataSample], num_classes: int) -> dict[str, Tensor]:
    """Collect the mixed labels of a batch and evaluate the mixing loss.

    Args:
        loss_module (nn.Module): A :class:`~mmdiverse.mixing.PatchMixingLoss`.
        features (Tensor): ``(B, 1 + N, D)``, of the image and of its patches.
        classifier (nn.Module): The layer of the head that makes logits of them.
        data_samples (list[DataSample]): From a ``PatchMixingDataPreprocessor``.
        num_classes (int): Classes of the head.

    Returns:
        dict[str, Tensor]: ``loss``.

    Raises:
        ValueError: If the samples do not say how they were mixed, if they have another number of
            patches, or a class that the head has not.
    """
    if 'patch_shares' not in data_samples[0]:
        raise ValueError(
            'this head needs samples that say how they were mixed; set `data_preprocessor=dict('
            "type='mmdiverse.PatchMixingDataPreprocessor', patch_size=...)`, at the top of the "
            'config or in `model`')
    shares = torch.stack([sample.patch_shares for sample in data_samples])
    if shares.size(1) != features.size(1) - 1:
        raise ValueError(
            f'the head sees {features.size(1) - 1} patches, but `data_preprocessor.patch_size` '
            f'makes {shares.size(1)}; set it to the number of pixels per token of the head, and '
            '`model.backbone` to a backbone with just one class token')
    label = torch.cat([sample.gt_label for sample in data_samples])
    # Labels on the CPU are checked for nothing; a look at those on a GPU would wait for it.
    if not label.is_cuda and int(label.max()) >= num_classes:
        raise ValueError(f'a training label is {int(label.max())}, but the head has {num_classes} '
                         'classes, so labels must be below; set `model.head.num_classes`')
    loss = loss_module.from_features(
        features, classifier, label, torch.cat([sample.mix_label for sample in data_samples]),
        shares.new_tensor([sample.mix_lam for sample in data_samples]), shares)
    return {'loss': loss}


def check_loss_module(loss_module: nn.Module, cal_acc: bool = False) -> None:
    """Check that a head can use its loss for mixed patches.

    Args:
        loss_module (nn.Module): That of the head.
        cal_acc (bool): Whether the head is to measure accuracy in training. Defaults to False.

    Raises:
        TypeError: If it is no :class:`~mmdiverse.mixing.PatchMixingLoss`.
        ValueError: If ``cal_acc``: labels are mixed.
    """
    if cal_acc:
        raise ValueError('`model.head.cal_acc` must be False to mix patches: training labels are '
                         'mixed, so that no accuracy is measured on them')
    if not isinstance(loss_module, PatchMixingLoss):
        raise TypeError('`model.head.loss` must be of type mmdiverse.PatchMixingLoss to mix patches'
                        f', but got {type(loss_module).__name__}; in a config that inherits '
                        'another loss, replace it with `_delete_=True`')


@MODELS.register_module()
class PatchMixingClsHead(VisionTransformerClsHead):
    """MMPretrain's VisionTransformerClsHead that also classifies every patch in training.

    The class token's own final norm, hidden layer and linear layer are shared by the patches, so
    a checkpoint has the keys of a VisionTransformerClsHead and predictions are the same.

    Args:
        **kwargs: As for VisionTransformerClsHead; ``loss`` defaults to
            ``dict(type='mmdiverse.PatchMixingLoss')``. The backbone must give all its tokens:
            ``out_type='raw'`` in MMPretrain's, as timm's do.

    Raises:
        TypeError: If ``loss`` is no PatchMixingLoss.
        ValueError: If ``cal_acc``; in training, if the backbone gives its class token alone, or
            samples do not fit; see :func:`~mmdiverse.mixing.heads.patch_mixing_loss`.
    """

    def __init__(self, *args: Any, loss: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, loss=loss or dict(type='mmdiverse.PatchMixingLoss'), **kwargs)
        check_loss_module(self.loss_module, self.cal_acc)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The class token before the classification layer, ``(B, D)``."""
        tokens = feats[-1]
        return super().pre_logits((tokens[:, 0] if tokens.dim() == 3 else tokens, ))

    def loss(self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs
             ) -> dict[str, Tensor]:
        """Compute the mixing loss of tokens ``(B, 1 + N, D)``."""
        tokens = feats[-1]
        if tokens.dim() != 3:
            raise ValueError(
                'PatchMixingClsHead needs all tokens, (B, 1 + N, D), but the backbone gives '
                f"{tuple(tokens.shape)}; set `model.backbone.out_type='raw'`")
        features = super().pre_logits((tokens, ))
        return patch_mixing_loss(self.loss_module, features, self.layers.head, data_samples,
                                 self.num_classes)


@MODELS.register_module()
class PatchMixingLinearClsHead(LinearClsHead):
    """MMPretrain's LinearClsHead, after average pooling, that also classifies every patch.

    For backbones without class token, such as Swin. The pooling is done here, so ``model.neck``
    must be None; a GlobalAveragePooling has no weights, and a checkpoint has the keys of the
    plain model.

    Args:
        **kwargs: As for LinearClsHead; ``loss`` defaults to
            ``dict(type='mmdiverse.PatchMixingLoss')``.

    Raises:
        TypeError: If ``loss`` is no PatchMixingLoss.
        ValueError: If ``cal_acc``, or if the head gets no feature map; in training, if samples do
            not fit; see :func:`~mmdiverse.mixing.heads.patch_mixing_loss`.
    """

    def __init__(self, *args: Any, loss: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, loss=loss or dict(type='mmdiverse.PatchMixingLoss'), **kwargs)
        check_loss_module(self.loss_module, self.cal_acc)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The pooled features before the classification layer, ``(B, D)``."""
        return F.adaptive_avg_pool2d(self._feature_map(feats), 1).flatten(1)

    def loss(self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs
             ) -> dict[str, Tensor]:
        """Compute the mixing loss of a feature map ``(B, D, H, W)``."""
        patches = self._feature_map(feats).flatten(2).mT
        tokens = torch.cat((patches.mean(1, keepdim=True), patches), dim=1)
        return patch_mixing_loss(self.loss_module, tokens, self.fc, data_samples,
                                 self.num_classes)

    @staticmethod
    def _feature_map(feats: tuple[Tensor, ...]) -> Tensor:
        feature_map = feats[-1]
        if feature_map.dim() != 4:
            raise ValueError(
                'PatchMixingLinearClsHead needs a feature map (B, D, H, W), but got '
                f'{tuple(feature_map.shape)}; set `model.neck=None`')
        return feature_map
