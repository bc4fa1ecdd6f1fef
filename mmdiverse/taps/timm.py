"""Tap for timm's VisionTransformer inside MMPretrain's TIMMBackbone."""
from collections.abc import Sequence

from mmpretrain.models.backbones import TIMMBackbone
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..image_mask import Size
from ..records import AttentionRecord
from ..registry import TAPS
from .base import Layer, Tap, TapPoints, fused_qkv_matrices, inner_module, split_heads

POINTS = TapPoints(
    embedding=('patch_embed', 'cls_token', 'dist_token', 'reg_token', 'pos_embed', 'norm_pre'),
    attention='attn.qkv',
    heads='attn',
    matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'))


@TAPS.register_module()
class TimmVisionTransformerTap(Tap):
    """Reads ``dict(type='TIMMBackbone', model_name='vit_...')`` (also ``deit_...``).

    Normalised queries and keys are taken as the attention uses them.
    """

    points = POINTS

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, TIMMBackbone) and \
            isinstance(backbone.timm_model, VisionTransformer)

    @property
    def embedding_owner(self) -> nn.Module:
        return self.backbone.timm_model

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.timm_model.blocks)

    def count_prefix_tokens(self) -> int:
        return self.backbone.timm_model.num_prefix_tokens

    def patch_size(self, layer: Layer) -> Size:
        return self.backbone.timm_model.patch_embed.proj.stride

    def check_attention(self, block: nn.Module) -> None:
        attention = inner_module(getattr(block, 'attn', None))
        if type(attention) is not Attention:
            raise ValueError(
                f'attention of this timm model is a {type(attention).__name__}, whose maps this '
                "tap cannot rebuild; drop the terms with `on='attention'`")

    def attention_record(self, block: nn.Module, captured: Tensor, layer: int) -> AttentionRecord:
        attn = block.attn
        q, k, _ = split_heads(captured, attn.num_heads)
        return AttentionRecord(layer, q=attn.q_norm(q), k=attn.k_norm(k), scale=attn.scale)
