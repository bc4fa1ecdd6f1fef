"""DeiT-S on ImageNet-1k as DeiT trains it; ``configs/deit/deit-small_8xb128_in1k.py`` in new style.

Launch: ``bash tools/dist_train.sh mmdiverse/configs/deit/deit_small_8xb128_in1k.py 8``
"""
from mmengine.config import read_base
from mmengine.hooks import EMAHook
from mmengine.model import ConstantInit, TruncNormalInit
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmpretrain.datasets import RepeatAugSampler
from mmpretrain.models import (
    CutMix,
    ImageClassifier,
    LabelSmoothLoss,
    Mixup,
    VisionTransformer,
    VisionTransformerClsHead,
)

from mmdiverse.hooks import SafeCheckpointHook

with read_base():
    from .._base_.adamw_bs1024 import *
    from .._base_.default_runtime import *
    from .._base_.imagenet_224 import *

model = dict(
    type=ImageClassifier,
    backbone=dict(
        type=VisionTransformer,
        arch='deit-small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1),
    neck=None,
    head=dict(
        type=VisionTransformerClsHead,
        num_classes=1000,
        in_channels=384,
        loss=dict(type=LabelSmoothLoss, label_smooth_val=0.1, mode='original')),
    init_cfg=[
        dict(type=TruncNormalInit, layer='Linear', std=.02),
        dict(type=ConstantInit, layer='LayerNorm', val=1., bias=0.),
    ],
    train_cfg=dict(augments=[dict(type=Mixup, alpha=0.8), dict(type=CutMix, alpha=1.0)]))

train_dataloader.update(batch_size=128, sampler=dict(type=RepeatAugSampler, shuffle=True))
optim_wrapper.update(clip_grad=None)
optim_wrapper['paramwise_cfg']['custom_keys'].update({
    '.cls_token': dict(decay_mult=0.0),
    '.pos_embed': dict(decay_mult=0.0),
})
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min=1e-5, by_epoch=True, begin=5),
]
default_hooks.update(checkpoint=dict(type=SafeCheckpointHook, interval=1))
custom_hooks = [dict(type=EMAHook, momentum=4e-5, priority='ABOVE_NORMAL')]
