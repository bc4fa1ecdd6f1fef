"""Taps for timm's Eva and for its NaFlexVit, which shares blocks with it."""
from dataclasses import replace

from timm.layers import Attention, AttentionRope
from timm.models.eva import Eva, EvaAttention
from timm.models.naflexvit import NaFlexVit
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import TapPoints, Weights
from .timm import POINTS, TimmTap

SEPARATE = {'q': ('attn.q_proj', None), 'k': ('attn.k_proj', None), 'v': ('attn.v_proj', None)}


@TAPS.register_module()
class TimmEvaTap(TimmTap):
    """Reads timm's ``Eva``: EVA, EVA-02, DINOv3, the Perception Encoder and their relatives.

    Queries and keys are as the attention uses them, normalised and turned by their positions.
    Heads that share keys and values (``num_kv_heads``) have maps of their own all the same.
    """

    models = (Eva, )
    attentions = (EvaAttention, AttentionRope)
    points = replace(POINTS, embedding=('patch_embed', 'cls_token', 'reg_token', 'pos_embed',
                                        'rope', 'norm_pre'))

    def points_of(self, block: nn.Module) -> TapPoints:
        points = super().points_of(block)
        return points if block.attn.qkv is not None else \
            replace(points, matrices={**points.matrices, **SEPARATE})

    def check_block_weights(self, layer: int, weights: Weights) -> None:
        super().check_block_weights(layer, weights)
        shared = [name for name in weights.matrices if name in ('k', 'v')]
        if weights.per_head and shared and \
                getattr(self.blocks[layer].attn, 'num_kv_groups', 1) > 1:
            raise ValueError(f'heads of this {type(self.model).__name__} share keys and values '
                             f'(`num_kv_heads`), so that none has a part of {shared} of its own; '
                             "take `matrices` from ['q', 'proj'], or set `per_head=False`")


@TAPS.register_module()
class TimmNaFlexVitTap(TimmEvaTap):
    """Reads timm's ``NaFlexVit`` on images of one size, as MMPretrain gives them."""

    models = (NaFlexVit, )
    attentions = (Attention, *TimmEvaTap.attentions)
    points = replace(POINTS, embedding=('embeds', 'rope', 'norm_pre'))

    @property
    def stride(self) -> Size:
        return self.model.embeds.patch_size
