"""Models of Hugging Face, alone and inside MMPretrain's HuggingFaceClassifier."""
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmpretrain.models.classifiers import HuggingFaceClassifier
from mmpretrain.structures import DataSample
from torch import nn

from mmdiverse.hooks import DiversityHook
from mmdiverse.taps import build_tap
from mmdiverse.taps.base import Weights
from tests.taps.families import attached
from tests.taps.families.huggingface import swin, vit


class StandIn(nn.Module):
    """A model of transformers before version 5, without what a tap need not know."""

    base_model_prefix = 'vit'

    def __init__(self, attention: str = 'sdpa') -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type='vit', _attn_implementation=attention)
        block = nn.Module()
        block.attention, block.intermediate, block.output = (nn.Module() for _ in range(3))
        block.attention.attention, block.attention.output = nn.Module(), nn.Module()
        block.attention.attention.num_attention_heads = 2
        for name in ('query', 'key', 'value'):
            setattr(block.attention.attention, name, nn.Linear(4, 4))
        block.attention.output.dense = nn.Linear(4, 4)
        block.intermediate.dense, block.output.dense = nn.Linear(4, 8), nn.Linear(8, 4)
        self.vit = nn.Module()
        self.vit.embeddings, self.vit.encoder = nn.Module(), nn.Module()
        self.vit.embeddings.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.vit.encoder.layer = nn.ModuleList([block])


def test_matrices_have_other_places_before_transformers_5() -> None:
    model = StandIn()
    tap, block = build_tap(model), model.vit.encoder.layer[0]
    attention = block.attention.attention
    layers = dict(q=attention.query, k=attention.key, v=attention.value, fc2=block.output.dense,
                  proj=block.attention.output.dense, fc1=block.intermediate.dense)
    for name, layer in layers.items():
        record, = tap.records('weight', 0, Weights((name, )))
        assert torch.equal(record.vectors()[0], layer.weight)
    assert tap.num_prefix == 1 and tap.count_heads(0) == 2


def test_attention_that_no_probe_sees_is_refused() -> None:
    with pytest.raises(ValueError, match="StandIn is 'flash_attention_2', .*set "
                                         "`attn_implementation='sdpa'`, or drop"):
        build_tap(StandIn('flash_attention_2')).attach([('maps', 0)])


def test_windows_that_are_padded() -> None:
    # 6 x 6 tokens in windows of 4.
    backbone = swin(image_size=12, depths=[2], num_heads=[2])
    backbone.eval()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(1, 3, 12, 12))
        shapes = [tuple(record.maps.shape) for record in tap.records('maps', 0)]
    assert shapes == [(1, 2, 4, 4), (2, 2, 8, 8), (1, 2, 16, 16)]


def test_a_classifier_that_is_a_model_of_hugging_face_is_diversified(tmp_path: Path) -> None:
    vit().config.save_pretrained(tmp_path)
    model = HuggingFaceClassifier(str(tmp_path)).train()
    DiversityHook([dict(type='CosineLoss', on='patch', layers=-1, weight=1.),
                   dict(type='CosineLoss', on='attention', layers=0, weight=1.)]).attach(model)
    samples = [DataSample().set_gt_label(label) for label in range(2)]
    total, logged = model.parse_losses(model(torch.randn(2, 3, 12, 12), samples, mode='loss'))
    total.backward()
    assert {'patch_cosine', 'attention_cosine', 'loss_cls'} <= logged.keys()
