"""The class token of a backbone that gives all its tokens."""
import pytest
import torch
from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.registry import MODELS

from mmdiverse.necks import ClassTokenNeck


def test_the_head_sees_the_first_token() -> None:
    tokens = torch.randn(2, 5, 3)
    token, = ClassTokenNeck()((torch.zeros(1), tokens))
    assert token.equal(tokens[:, 0])


def test_a_feature_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r'needs tokens .*gives \(2, 3, 4, 4\).*`model.neck=None`'):
        ClassTokenNeck()((torch.zeros(2, 3, 4, 4), ))


def test_logits_are_those_of_timm() -> None:
    options = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    model = MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', **options),
        neck=dict(type='mmdiverse.ClassTokenNeck'),
        head=dict(type='VisionTransformerClsHead', in_channels=16, num_classes=3))).eval()
    timm_model = TIMMBackbone('vit_tiny_patch16_224', **options).timm_model.eval()
    timm_model.load_state_dict(model.backbone.timm_model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    timm_model.reset_classifier(3, 'token')
    timm_model.head.load_state_dict(model.head.layers.head.state_dict())
    assert torch.allclose(model(images), timm_model(images), atol=1e-5)
