"""Tap for MMPretrain's MobileViT."""
from collections.abc import Sequence

from mmpretrain.models.backbones import MobileViT
from mmpretrain.models.backbones.mobilevit import MobileVitBlock
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn

from ..registry import TAPS
from .base import Tap, TapPoints, fused_qkv_matrices, inner_module


@TAPS.register_module()
class MobileViTTap(Tap):
    """Reads the transformer layers of MMPretrain's ``MobileViT``, through all its blocks.

    A token is a pixel of a feature map. Attention is among the pixels that have one place in their
    patch, of which each group, four in an image, is an item of the batch at attention level.
    """

    probed = True
    points = TapPoints(
        embedding=(),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, MobileViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return [layer for block in self._unfolding() for layer in block.global_rep
                if isinstance(inner_module(layer), TransformerEncoderLayer)]

    def _unfolding(self) -> list[nn.Module]:
        return [module for module in self.backbone.modules() if isinstance(module, MobileVitBlock)]

    def count_prefix_tokens(self) -> int:
        return 0

    def _arrange(self, tokens: Tensor) -> Tensor:
        """The groups of an image behind each other, ``(B P, N, C)`` as ``(B, P N, C)``."""
        return tokens.unflatten(0, (-1, self._unfolding()[0].patch_area)).flatten(1, 2)
