"""MMPretrain's VisionTransformer and those that extend it."""
from typing import Any

import torch
from mmpretrain.models.backbones import DeiT3, DistilledVisionTransformer, VisionTransformer
from mmpretrain.models.selfsup import MAEViT, MoCoV3ViT
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn

from .family import Family


def vit(type: type = VisionTransformer, **options: Any) -> nn.Module:
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)
    options = dict(dict(layer_cfgs=dict(attn_drop_rate=0.1)), **options)
    return type(arch=arch, img_size=12, patch_size=4, drop_rate=0.1, drop_path_rate=0.1, **options)


def vit_with_qk_scale() -> nn.Module:
    # MMPretrain's blocks cannot be given a qk_scale, but its attention can.
    backbone = vit()
    for block in backbone.layers:
        block.attn = MultiheadAttention(16, 2, qk_scale=0.5)
    return backbone


def masks_alike(backbone: nn.Module) -> nn.Module:
    """Let a backbone that masks at random leave out the same patches in every pass."""
    forward = backbone.forward

    def seeded(images: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        return forward(images)

    backbone.forward = seeded
    return backbone


GATED: dict[str, Any] = dict(fc=('ffn.w12', 'ffn.w3'), fc1=lambda weight: weight.chunk(2)[1])
FAMILIES = [
    Family('vit', 'VisionTransformerTap', vit),
    Family('vit-no-class-token', 'VisionTransformerTap',
           lambda: vit(with_cls_token=False, out_type='avg_featmap'), prefix=()),
    Family('vit-pre-norm', 'VisionTransformerTap', lambda: vit(pre_norm=True)),
    Family('vit-qk-scale', 'VisionTransformerTap', vit_with_qk_scale),
    Family('deit-distilled', 'VisionTransformerTap',
           lambda: vit(DistilledVisionTransformer, out_type='raw'),
           prefix=('cls_token', 'dist_token')),
    Family('deit3', 'VisionTransformerTap', lambda: vit(DeiT3)),
    Family('deit3-no-class-token', 'VisionTransformerTap',
           lambda: vit(DeiT3, with_cls_token=False, use_layer_scale=False, out_type='raw'),
           prefix=()),
    Family('dinov2-giant', 'VisionTransformerTap',
           lambda: vit(layer_scale_init_value=1e-5, layer_cfgs=dict(ffn_type='swiglu_fused')),
           **GATED),
    Family('mocov3', 'VisionTransformerTap', lambda: vit(MoCoV3ViT)),
    Family('mae', 'VisionTransformerTap', lambda: masks_alike(vit(MAEViT, mask_ratio=0.5)),
           num_patches=4, masks=True),
]
