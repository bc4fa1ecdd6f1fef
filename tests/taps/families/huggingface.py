"""Models of Hugging Face, which are skipped where transformers is not installed."""
from functools import partial
from typing import Any

import pytest
from torch import nn

from .family import Family


class HuggingFaceFamily(Family):
    """Its attention has `num_attention_heads`."""

    def count_heads(self, block: nn.Module) -> int:
        return block.attention.num_attention_heads


def hugging_face(model: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip('transformers', minversion='5.0')
    config = getattr(transformers, f'{model}Config')(
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, **options)
    backbone = getattr(transformers, f'{model}ForImageClassification')(config)
    forward = backbone.forward
    backbone.forward = lambda images: (forward(images).logits, )
    return backbone


def vit(model: str = 'ViT', **options: Any) -> nn.Module:
    return hugging_face(model, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                        intermediate_size=24, image_size=12, patch_size=4, **options)


def swin(**options: Any) -> nn.Module:
    # 8 x 8 tokens in four windows, of which the second block shifts; then 4 x 4 in one.
    return hugging_face('Swin', **{**dict(image_size=16, patch_size=2, embed_dim=8, depths=[2, 2],
                                          num_heads=[2, 4], window_size=4), **options})


def places(block: nn.Module, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Windows of tokens, which are shifted in some blocks."""
    side, shift = min(block.window_size, rows), block.shift_size
    shift = 0 if side == rows else shift
    return [[((top + row + shift) % rows, (left + column + shift) % columns)
             for row in range(side) for column in range(side)]
            for top in range(0, rows, side) for left in range(0, columns, side)]


VIT: dict[str, Any] = dict(
    tap='HuggingFaceViTTap', blocks='vit.layers', attention='attention',
    qkv=('q_proj', 'k_proj', 'v_proj'), proj='o_proj', fc=('mlp.fc1', 'mlp.fc2'),
    prefix=('vit.embeddings.cls_token', ))
SWIN: dict[str, Any] = {
    **VIT, 'tap': 'HuggingFaceSwinTap', 'blocks': 'swin.encoder.layers', 'prefix': (),
    'image_size': 16, 'num_patches': 64, 'places': places,
    'output': lambda output: output[0]}
FAMILIES = [
    HuggingFaceFamily('huggingface-vit', make=vit, **VIT),
    HuggingFaceFamily('huggingface-vit-unfused', make=partial(vit, attn_implementation='eager'),
                      **VIT),
    HuggingFaceFamily('huggingface-deit', make=partial(vit, 'DeiT'), **{
        **VIT, 'blocks': 'deit.layers',
        'prefix': ('deit.embeddings.cls_token', 'deit.embeddings.distillation_token')}),
    HuggingFaceFamily('huggingface-swin', make=swin, **SWIN),
]
