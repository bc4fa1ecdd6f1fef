"""timm's MultiScaleVit, alone: the arch of one by name cannot be changed."""
from functools import partial
from typing import Any

from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

from .family import Family


def mvit(**options: Any) -> nn.Module:
    # 8 x 8 tokens, which the third block pools to 4 x 4.
    cfg = MultiScaleVitCfg(depths=(2, 2), embed_dim=8, num_heads=1, **options)
    return MultiScaleVit(cfg, img_size=32, num_classes=0, drop_path_rate=0.1, global_pool='')


MVIT: dict[str, Any] = dict(
    tap='TimmMultiScaleVitTap', blocks='stages', fc=('mlp.fc1', 'mlp.fc2'), prefix=(),
    image_size=32, num_patches=64, output=lambda output: output[0])
FAMILIES = [
    # Queries are added to what enters its projection.
    Family('timm-mvit', make=mvit, head_outputs=None, **MVIT),
    Family('timm-mvit-class-token',
           make=partial(mvit, use_cls_token=True, use_abs_pos=True, residual_pooling=False,
                        expand_attn=False, rel_pos_type=''),
           **{**MVIT, 'prefix': ('cls_token', )}),
]
