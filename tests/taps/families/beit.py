"""MMPretrain's BEiTViT."""
from typing import Any

from mmpretrain.models.backbones import BEiTViT
from torch import nn

from .family import Family


def beit(type: type = BEiTViT, **options: Any) -> nn.Module:
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)
    return type(arch=arch, img_size=12, patch_size=4, drop_rate=0.1, drop_path_rate=0.1,
                layer_cfgs=dict(attn_drop_rate=0.1), **options)


FAMILIES = [
    Family('beit', 'BEiTViTTap', beit),
    Family('beit-shared-bias', 'BEiTViTTap',
           lambda: beit(use_rel_pos_bias=False, use_shared_rel_pos_bias=True,
                        use_abs_pos_emb=True)),
    # MMPretrain's relative positions need the class token.
    Family('beit-no-class-token', 'BEiTViTTap',
           lambda: beit(with_cls_token=False, use_rel_pos_bias=False), prefix=()),
    Family('eva', 'BEiTViTTap',
           lambda: beit(use_rel_pos_bias=False, use_abs_pos_emb=True, layer_scale_init_value=0.)),
]
