"""MMPretrain's MixMIMTransformer."""
from mmpretrain.models.backbones import MixMIMTransformer
from torch import nn

from .family import Family


def mixmim() -> nn.Module:
    # 8 x 8 tokens in four windows, then 4 x 4 in one.
    arch = dict(embed_dims=8, depths=[2, 1], num_heads=[2, 4])
    return MixMIMTransformer(arch=arch, img_size=16, patch_size=2, mlp_ratio=2, window_size=[4, 4],
                             drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1)


FAMILIES = [Family('mixmim', 'MixMIMTransformerTap', mixmim, prefix=(), image_size=16,
                   num_patches=64)]
