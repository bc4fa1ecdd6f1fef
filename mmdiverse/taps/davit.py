"""Tap for MMPretrain's DaViT."""
from collections.abc import Sequence
from itertools import accumulate

from mmpretrain.models.backbones import DaViT
from mmpretrain.models.backbones.davit import DaViTWindowMSA
from torch import nn

from ..registry import TAPS
from .base import TapPoints, fused_qkv_matrices
from .swin import SwinTransformerTap

SPATIAL = TapPoints(
    embedding=('patch_embed', ),
    attention='attn.w_msa',
    heads='attn.w_msa',
    matrices=fused_qkv_matrices('attn.w_msa.qkv', 'attn.w_msa.proj', 'ffn.layers.0.0',
                                'ffn.layers.1'))
CHANNEL = TapPoints(
    embedding=SPATIAL.embedding,
    attention='attn',
    heads='attn',
    matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))


@TAPS.register_module()
class DaViTTap(SwinTransformerTap):
    """Reads MMPretrain's ``DaViT``.

    Blocks are counted through all stages, and each of DaViT's is two: those with an even index
    attend in windows of tokens, those with an odd one from channels to channels, so that they have
    no maps of tokens.
    """

    probed = True
    attention_type = DaViTWindowMSA
    points = SPATIAL

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, DaViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [part for stage in self.backbone.stages for block in stage.blocks
                for part in (block.spatial_block, block.channel_block)]

    def mergings_before(self, layer: int) -> list[nn.Module]:
        ends = accumulate(2 * len(stage.blocks) for stage in self.backbone.stages)
        return [stage.downsample.projection for stage, end in zip(self.backbone.stages, ends)
                if end <= layer]

    def points_of(self, block: nn.Module) -> TapPoints:
        return SPATIAL if hasattr(block.attn, 'w_msa') else CHANNEL

    def check_attention(self, block: nn.Module) -> None:
        if not hasattr(block.attn, 'w_msa'):
            raise ValueError(
                'blocks of DaViT with an odd index attend from channels to channels, so they have '
                "no attention maps of tokens; name even `layers` in terms with `on='attention'`, "
                'or drop these')
        super().check_attention(block)
