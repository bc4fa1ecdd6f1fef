"""Mixing heads: predictions and weights of the plain model, the loss, errors."""
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.models.heads import LinearClsHead, VisionTransformerClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmdiverse.mixing import PatchMixingClsHead, PatchMixingLinearClsHead, PatchMixingLoss

B, N, D, C = 2, 4, 6, 5
MIXING = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=4)
AUGMENTS = dict(augments=[dict(type='mmdiverse.PatchMixup', alpha=0.8),
                          dict(type='mmdiverse.PatchCutMix', alpha=1.0)])
VIT = dict(type='VisionTransformer', img_size=8, patch_size=4,
           arch=dict(embed_dims=D, num_layers=2, num_heads=2, feedforward_channels=8))
SWIN = dict(type='SwinTransformer', img_size=8, patch_size=2, window_size=2, out_indices=(1, ),
            arch=dict(embed_dims=3, depths=[1, 1], num_heads=[1, 1]))
VIT_HEAD = dict(type='VisionTransformerClsHead', num_classes=C, in_channels=D, hidden_dim=7)
SWIN_HEAD = dict(type='LinearClsHead', num_classes=C, in_channels=D)


def build(**model: Any) -> nn.Module:
    """A classifier with random weights."""
    torch.manual_seed(0)
    # Copied, because the classifier writes into the config of its preprocessor.
    model = MODELS.build(dict(type='ImageClassifier', **deepcopy(model)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def plain(family: str) -> nn.Module:
    if family == 'vit':
        return build(backbone=VIT, head=VIT_HEAD)
    return build(backbone=SWIN, neck=dict(type='GlobalAveragePooling'), head=SWIN_HEAD)


def mixing(family: str, data_preprocessor: dict[str, Any] = MIXING,
           backbone: dict[str, Any] | None = None, **model: Any) -> nn.Module:
    if family == 'vit':
        known = dict(VIT, out_type='raw')
        head = dict(VIT_HEAD, type='mmdiverse.PatchMixingClsHead')
    else:
        known = SWIN
        head = dict(SWIN_HEAD, type='mmdiverse.PatchMixingLinearClsHead')
    return build(backbone=dict(known, **(backbone or {})), head=head,
                 data_preprocessor=data_preprocessor,
                 train_cfg=AUGMENTS if 'patch_size' in data_preprocessor else None, **model)


def batch(labels: tuple[int, ...] = (0, 3)) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return dict(inputs=[torch.randn(3, 8, 8, generator=generator) for _ in labels],
                data_samples=[DataSample().set_gt_label(label) for label in labels])


def loss_of(model: nn.Module, data: dict[str, Any]) -> dict[str, Tensor]:
    np.random.seed(0)
    torch.manual_seed(0)
    return model(**model.data_preprocessor(data, True), mode='loss')


families = pytest.mark.parametrize('family', ['vit', 'swin'])


@families
def test_predictions_are_those_of_the_plain_model(family: str) -> None:
    ours, theirs = mixing(family).eval(), plain(family).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    scores = [torch.stack([sample.pred_score for sample in model.val_step(batch())])
              for model in (ours, theirs)]
    assert torch.equal(*scores)


@families
def test_weights_load_strictly_into_the_plain_model(family: str) -> None:
    plain(family).load_state_dict(mixing(family).state_dict(), strict=True)


@families
def test_training_gives_one_finite_loss_with_gradient(family: str) -> None:
    losses = loss_of(mixing(family), batch())
    assert list(losses) == ['loss'] and losses['loss'].isfinite() and losses['loss'].requires_grad


def sample(label: int, mix_label: int, lam: float, shares: list[float]) -> DataSample:
    made = DataSample().set_gt_label(label)
    made.set_field(torch.tensor([mix_label]), 'mix_label')
    made.set_field(lam, 'mix_lam', field_type='metainfo')
    made.set_field(torch.tensor(shares), 'patch_shares')
    return made


SAMPLES = [sample(0, 1, 0.75, [1., 1., 1., 0.]), sample(1, 2, 0.5, [1., 0., 1., 0.])]


def expected_loss(logits: Tensor) -> Tensor:
    return PatchMixingLoss()(logits, torch.tensor([0, 1]), torch.tensor([1, 2]),
                             torch.tensor([0.75, 0.5]),
                             torch.stack([made.patch_shares for made in SAMPLES]))


def test_patches_of_a_vit_share_the_layers_of_the_class_token() -> None:
    torch.manual_seed(0)
    head = PatchMixingClsHead(num_classes=C, in_channels=D, hidden_dim=7)
    tokens = torch.randn(B, 1 + N, D)
    one_by_one = VisionTransformerClsHead(num_classes=C, in_channels=D, hidden_dim=7)
    one_by_one.load_state_dict(head.state_dict())
    logits = torch.stack([one_by_one((token, )) for token in tokens.unbind(1)], dim=1)
    torch.testing.assert_close(head.loss((tokens, ), SAMPLES)['loss'], expected_loss(logits))


def test_patches_of_a_swin_share_the_layer_of_the_pooled_image() -> None:
    torch.manual_seed(0)
    head = PatchMixingLinearClsHead(num_classes=C, in_channels=D)
    feature_map = torch.randn(B, D, 2, 2)
    one_by_one = LinearClsHead(num_classes=C, in_channels=D)
    one_by_one.load_state_dict(head.state_dict())
    pixels = [feature_map[:, :, y, x] for y in range(2) for x in range(2)]
    logits = torch.stack([one_by_one((vector, ))
                          for vector in (feature_map.mean((2, 3)), *pixels)], dim=1)
    torch.testing.assert_close(head.loss((feature_map, ), SAMPLES)['loss'], expected_loss(logits))


@families
def test_a_wrapped_classification_layer_is_called(family: str) -> None:
    torch.manual_seed(0)
    if family == 'vit':
        head = PatchMixingClsHead(num_classes=C, in_channels=D)
        owner, name, features = head.layers, 'head', torch.randn(B, 1 + N, D)
        tokens = features
    else:
        head = PatchMixingLinearClsHead(num_classes=C, in_channels=D)
        owner, name, features = head, 'fc', torch.randn(B, D, 2, 2)
        patches = features.flatten(2).mT
        tokens = torch.cat((patches.mean(1, keepdim=True), patches), dim=1)
    wrapped = nn.Sequential(getattr(owner, name), nn.Tanh())
    setattr(owner, name, wrapped)
    torch.testing.assert_close(head.loss((features, ), SAMPLES)['loss'],
                               expected_loss(wrapped(tokens)))


@families
def test_the_mixing_preprocessor_is_missing(family: str) -> None:
    model = mixing(family, data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=C))
    with pytest.raises(ValueError, match='`data_preprocessor=dict.*PatchMixingDataPreprocessor'):
        loss_of(model, batch())


def test_the_backbone_gives_its_class_token_alone() -> None:
    with pytest.raises(ValueError, match=r'needs all tokens.*gives \(2, 6\); set `model.backbone.'
                                         "out_type='raw'`"):
        loss_of(mixing('vit', backbone=dict(out_type='cls_token')), batch())


def test_class_token_alone_is_enough_for_predictions() -> None:
    model = mixing('vit', backbone=dict(out_type='cls_token')).eval()
    assert len(model.val_step(batch())) == B


@families
def test_patch_size_of_other_patches_than_those_of_the_head(family: str) -> None:
    model = mixing(family, data_preprocessor=dict(MIXING, patch_size=2))
    with pytest.raises(ValueError, match='the head sees 4 patches, but `data_preprocessor.patch_'
                                         'size` makes 16'):
        loss_of(model, batch())


def test_a_backbone_with_two_prefix_tokens() -> None:
    model = mixing('vit', backbone=dict(type='DistilledVisionTransformer'))
    with pytest.raises(ValueError, match='the head sees 5 patches.*makes 4.*one class token'):
        loss_of(model, batch())


@families
def test_a_label_that_the_head_does_not_have(family: str) -> None:
    with pytest.raises(ValueError, match='a training label is 5, but the head has 5 classes.*'
                                         '`model.head.num_classes`'):
        loss_of(mixing(family), batch((0, 5)))


@pytest.mark.parametrize('mode', ['loss', 'predict'])
def test_a_neck_left_in_a_swin(mode: str) -> None:
    model = mixing('swin', neck=dict(type='GlobalAveragePooling'))
    with pytest.raises(ValueError, match=r'but got \(2, 6\); set `model.neck=None`'):
        loss_of(model, batch()) if mode == 'loss' else model.eval().val_step(batch())


def test_plain_mixup_is_refused() -> None:
    with pytest.raises(TypeError, match='`model.train_cfg.augments`.*but got Mixup'):
        build(backbone=dict(VIT, out_type='raw'),
              head=dict(VIT_HEAD, type='mmdiverse.PatchMixingClsHead'), data_preprocessor=MIXING,
              train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))


@pytest.mark.parametrize('head', [PatchMixingClsHead, PatchMixingLinearClsHead])
def test_accuracy_in_training_is_refused(head: type) -> None:
    with pytest.raises(ValueError, match='`model.head.cal_acc` must be False'):
        head(num_classes=C, in_channels=D, cal_acc=True)
