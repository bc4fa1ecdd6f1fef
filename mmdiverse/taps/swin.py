"""Tap for MMPretrain's SwinTransformer."""
from collections.abc import Callable, Sequence
from typing import Any

from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import WindowMSA
from torch import Tensor, nn

from ..records import AttentionRecord
from ..registry import TAPS
from .base import HEADS, Request, Tap, TapPoints, fused_qkv_matrices, inner_module

POINTS = TapPoints(
    embedding=('patch_embed', 'absolute_pos_embed'),
    attention='attn.w_msa.softmax',
    heads='attn.w_msa',
    matrices=fused_qkv_matrices('attn.w_msa.qkv', 'attn.w_msa.proj', 'ffn.layers.0.0',
                                'ffn.layers.1'))


@TAPS.register_module()
class SwinTransformerTap(Tap):
    """Reads MMPretrain's ``SwinTransformer``.

    Blocks are counted through all stages, so ``layers=-1`` is the last block of the last stage.
    Windowed attention computes its softmax maps anyway, so records hold them as they are, one
    item of the batch per window. Stages differ in the number and width of tokens: losses between
    two layers need both in one stage.
    """

    points = POINTS

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, SwinTransformer)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.backbone.stages for block in stage.blocks]

    def count_prefix_tokens(self) -> int:
        return 0

    def check_attention(self, block: nn.Module) -> None:
        attention = inner_module(block.attn.w_msa)
        if not isinstance(attention, WindowMSA):
            raise ValueError(
                f'attention of {type(self.backbone).__name__} is a '
                f'{type(attention).__name__}, whose maps this tap does not know; drop the '
                "terms with `on='attention'`")

    def attach(self, requests: Sequence[Request], *args: Any) -> None:
        requests = list(requests)
        super().attach(requests, *args)
        for layer in {layer for source, layer in requests if source in HEADS}:
            self._handles.append(
                self.blocks[layer].register_forward_pre_hook(self._refuse_padding(layer)))

    def _refuse_padding(self, layer: int) -> Callable[[nn.Module, tuple], None]:
        def hook(block: nn.Module, args: tuple) -> None:
            window = block.attn.window_size
            if self._recording and any(side % window for side in args[1]):
                raise ValueError(
                    f'block {layer} sees {tuple(args[1])} tokens, which windows of {window} do not '
                    'divide: padding would enter the attention. Change the input size, '
                    "`window_size`, or drop the terms with `on='attention'`")
        return hook

    def attention_record(self, block: nn.Module, captured: Tensor, layer: int) -> AttentionRecord:
        return AttentionRecord(layer, maps=captured)
