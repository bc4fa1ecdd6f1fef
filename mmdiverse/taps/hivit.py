"""Tap for MMPretrain's HiViT."""
from collections.abc import Iterator, Sequence

from mmpretrain.models.backbones import HiViT
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import Layer, Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class HiViTTap(Tap):
    """Reads MMPretrain's ``HiViT``: the blocks of its main stage, which have attention.

    The stages before, MLPs that work on parts of a patch and know no other, count as the embedding
    of patches. Of ``MAEHiViT``, the patches that are not masked are read.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'mask_token', 'pos_embed'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'))

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, HiViT)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.blocks[-self.backbone.num_main_blocks:])

    def count_prefix_tokens(self) -> int:
        return 0

    def embedding_parameters(self) -> Iterator[nn.Parameter]:
        yield from super().embedding_parameters()
        yield from self.backbone.blocks[:-self.backbone.num_main_blocks].parameters()

    def patch_size(self, layer: Layer) -> Size:
        return self.backbone.patch_embed.patch_size
