"""DeiT-S on ImageNet-1k, diversified with the authors' coefficients and patch-level mixing.

``configs/deit/deit-small_diverse_8xb128_in1k.py`` in new style. Launch:
``bash tools/dist_train.sh mmdiverse/configs/deit/deit_small_diverse_8xb128_in1k.py 8``
"""
from mmengine.config import read_base

from mmdiverse.mixing import (
    PatchCutMix,
    PatchMixingClsHead,
    PatchMixingDataPreprocessor,
    PatchMixingLoss,
    PatchMixup,
)

with read_base():
    from .._base_.diversity.official import *
    from .deit_small_8xb128_in1k import *

data_preprocessor.update(type=PatchMixingDataPreprocessor, patch_size=16)
model['backbone'].update(out_type='raw')
model['head'].update(type=PatchMixingClsHead)
model['head']['loss'] = dict(type=PatchMixingLoss, label_smooth_val=0.1)
model['train_cfg'] = dict(augments=[
    dict(type=PatchMixup, alpha=0.8, partner='flip'),
    dict(type=PatchCutMix, alpha=1.0, partner='flip'),
])
custom_hooks.append(diversity)
