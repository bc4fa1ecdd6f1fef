"""Tap for MMPretrain's SwinTransformer."""
from collections.abc import Sequence
from itertools import accumulate

from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import WindowMSA
from torch import Tensor, nn

from ..image_mask import Size
from ..records import AttentionRecord
from ..registry import TAPS
from .base import EMBED, Layer, TapPoints, fused_qkv_matrices, inner_module
from .windows import WindowTap

POINTS = TapPoints(
    embedding=('patch_embed', 'mask_token', 'absolute_pos_embed'),
    attention='attn.w_msa.softmax',
    heads='attn.w_msa',
    matrices=fused_qkv_matrices('attn.w_msa.qkv', 'attn.w_msa.proj', 'ffn.layers.0.0',
                                'ffn.layers.1'))


@TAPS.register_module()
class SwinTransformerTap(WindowTap):
    """Reads MMPretrain's ``SwinTransformer``.

    Blocks are counted through all stages, so ``layers=-1`` is the last block of the last stage.
    Windowed attention computes its softmax maps anyway, so records hold them as they are, one
    item of the batch per window. Where windows do not divide the tokens, those that pad them are
    left out. Stages differ in the number and width of tokens: losses between
    two layers need both in one stage.
    """

    points = POINTS
    attention_type: type = WindowMSA

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, SwinTransformer)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.backbone.stages for block in stage.blocks]

    def count_prefix_tokens(self) -> int:
        return 0

    def check_attention(self, block: nn.Module) -> None:
        attention = inner_module(block.attn.w_msa)
        if not isinstance(attention, self.attention_type):
            raise ValueError(
                f'attention of {type(self.backbone).__name__} is a '
                f'{type(attention).__name__}, whose maps this tap does not know; drop the '
                "terms with `on='attention'`")

    def patch_size(self, layer: Layer) -> Size:
        rows, columns = self.backbone.patch_embed.projection.stride
        for merging in self.mergings_before(0 if layer == EMBED else layer):
            rows, columns = rows * merging.stride[0], columns * merging.stride[1]
        return rows, columns

    def mergings_before(self, layer: int) -> list[nn.Module]:
        """Of the merging of patches before a block, the modules that know its stride."""
        ends = accumulate(len(stage.blocks) for stage in self.backbone.stages)
        return [stage.downsample.sampler for stage, end in zip(self.backbone.stages, ends)
                if end <= layer]

    def window(self, block: nn.Module, grid: Size) -> tuple[int, int]:
        attention = block.attn
        # As in the original, what is a single window is not shifted.
        single = min(grid) == attention.window_size and not attention.pad_small_map
        return attention.window_size, 0 if single else attention.shift_size

    def attention_record(self, block: nn.Module, captured: Tensor, layer: int) -> AttentionRecord:
        return AttentionRecord(layer, maps=captured)
