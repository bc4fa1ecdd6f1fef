"""Swin-T on ImageNet-1k, diversified at all three levels, with patch-level mixing.

``configs/swin_transformer/swin-tiny_diverse_16xb64_in1k.py`` in new style. Launch:
``GPUS=16 bash tools/slurm_train.sh PARTITION JOB
mmdiverse/configs/swin_transformer/swin_tiny_diverse_16xb64_in1k.py DIR``
"""
from mmengine.config import read_base

from mmdiverse.mixing import (
    PatchCutMix,
    PatchMixingDataPreprocessor,
    PatchMixingLinearClsHead,
    PatchMixingLoss,
    PatchMixup,
)

with read_base():
    from .._base_.diversity.swin import *
    from .swin_tiny_16xb64_in1k import *

data_preprocessor.update(type=PatchMixingDataPreprocessor, patch_size=32)
model.update(neck=None)
model['head'].update(type=PatchMixingLinearClsHead)
model['head']['loss'] = dict(type=PatchMixingLoss, label_smooth_val=0.1)
model['train_cfg'] = dict(augments=[
    dict(type=PatchMixup, alpha=0.8),
    dict(type=PatchCutMix, alpha=1.0),
])
custom_hooks = [diversity]
