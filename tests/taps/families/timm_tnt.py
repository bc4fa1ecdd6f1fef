"""timm's TNT."""
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from .family import Family


def tnt(**options: Any) -> nn.Module:
    # 3 x 3 patches of 2 x 2 pixels of the inner parts.
    return TIMMBackbone(
        model_name='tnt_s_patch16_224', img_size=12, patch_size=4, first_stride=2, embed_dim=16,
        inner_dim=8, depth=3, num_heads_outer=2, num_heads_inner=4, mlp_ratio=2,
        pos_drop_rate=0.1, drop_path_rate=0.1, **options)


TNT: dict[str, Any] = dict(
    tap='TimmTNTTap', blocks='timm_model.blocks', attention='attn_out', qkv=('qk', 'v'),
    split=lambda qk, v: (*qk.chunk(2), v), fc=('mlp.fc1', 'mlp.fc2'),
    prefix=('timm_model.cls_token', ), output=lambda output: output[1])
FAMILIES = [
    Family('timm-tnt', make=tnt, **TNT),
    Family('timm-tnt-legacy', make=partial(tnt, legacy=True, qkv_bias=True), **TNT),
]
