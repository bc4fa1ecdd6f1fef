"""MMPretrain's RevVisionTransformer."""
from typing import Any

import torch
from mmpretrain.models.backbones import RevVisionTransformer
from torch import nn

from .family import Family


def revvit(**options: Any) -> nn.Module:
    # Its dropout draws a seed of its own in every pass, and its drop path is on in evaluation too.
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)
    options = dict(dict(no_custom_backward=True), **options)
    return RevVisionTransformer(arch=arch, img_size=12, patch_size=4, **options)


REVVIT = dict(tap='RevVisionTransformerTap', output=lambda streams: torch.cat(streams, dim=-1))
FAMILIES = [
    Family('revvit', prefix=(), make=revvit, **REVVIT),
    Family('revvit-class-token', make=lambda: revvit(
        with_cls_token=True, fusion_mode='avg', out_type='cls_token'), **REVVIT),
]
