"""Taps for models of Hugging Face inside MMPretrain's HuggingFaceClassifier."""
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from ..image_mask import Size
from ..registry import TAPS
from .base import EMBED, Layer, Tap, TapPoints, inner_module
from .windows import WindowTap

#: Where a block keeps its matrices, in transformers 5 and before.
MATRICES = {
    'q': ('attention.q_proj', 'attention.attention.query', 'attention.self.query'),
    'k': ('attention.k_proj', 'attention.attention.key', 'attention.self.key'),
    'v': ('attention.v_proj', 'attention.attention.value', 'attention.self.value'),
    'proj': ('attention.o_proj', 'attention.output.dense'),
    'fc1': ('mlp.fc1', 'intermediate.dense'),
    'fc2': ('mlp.fc2', 'output.dense'),
}


@TAPS.register_module()
class HuggingFaceViTTap(Tap):
    """Reads ViT, DeiT, BEiT and DINOv2 of Hugging Face, the model of a ``HuggingFaceClassifier``.

    transformers itself is not imported.
    """

    probed = True
    points = TapPoints(embedding=('embeddings', ), attention='', heads='', matrices={})
    model_types: tuple[str, ...] = ('vit', 'deit', 'beit', 'dinov2', 'dinov2_with_registers')

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return hasattr(backbone, 'base_model_prefix') and \
            getattr(getattr(backbone, 'config', None), 'model_type', None) in cls.model_types

    @property
    def embedding_owner(self) -> nn.Module:
        return getattr(self.backbone, self.backbone.base_model_prefix, self.backbone)

    def find_blocks(self) -> Sequence[nn.Module]:
        model = self.embedding_owner
        return list(model.layers if hasattr(model, 'layers') else model.encoder.layer)

    def count_prefix_tokens(self) -> int:
        tokens = (getattr(self.embedding_owner.embeddings, name, None)
                  for name in ('cls_token', 'distillation_token', 'register_tokens'))
        return sum(token.size(1) for token in tokens if token is not None)

    def patch_size(self, layer: Layer) -> Size:
        return self.embedding_owner.embeddings.patch_embeddings.projection.stride

    def points_of(self, block: nn.Module) -> TapPoints:
        found = dict(block.named_modules())
        matrices = {name: next((path for path in paths if path in found), paths[0])
                    for name, paths in MATRICES.items()}
        attention = matrices['q'].rpartition('.')[0]
        return replace(self.points, attention=attention, heads=attention,
                       matrices={name: (path, None) for name, path in matrices.items()})

    def count_heads(self, layer: int) -> int:
        block = self.blocks[layer]
        return self._find_module(block, self.points_of(block).heads, layer).num_attention_heads

    def check_attention(self, block: nn.Module) -> None:
        kind = getattr(self.backbone.config, '_attn_implementation', 'eager')
        if kind not in ('eager', 'sdpa'):
            raise ValueError(f'attention of this {type(self.backbone).__name__} is {kind!r}, whose '
                             "maps cannot be had; set `attn_implementation='sdpa'`, or drop the "
                             "terms with `on='attention'`")

    def block_output(self, output: Any) -> Tensor:
        return output if isinstance(output, Tensor) else output[0]


@TAPS.register_module()
class HuggingFaceSwinTap(WindowTap, HuggingFaceViTTap):
    """Reads Swin of Hugging Face, the model of a ``HuggingFaceClassifier``.

    Windows are items of the batch at attention level.
    """

    model_types = ('swin', )

    @property
    def _stages(self) -> Sequence[nn.Module]:
        return [inner_module(stage) for stage in self.embedding_owner.encoder.layers]

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self._stages for block in stage.blocks]

    def patch_size(self, layer: Layer) -> Size:
        ends = accumulate(len(stage.blocks) for stage in self._stages)
        halved = sum(end <= (0 if layer == EMBED else layer) for end in ends)
        rows, columns = super().patch_size(layer)
        return rows * 2**halved, columns * 2**halved

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int]:
        return block.window_size, block.shift_size
