"""Swin-T on ImageNet-1k as MMPretrain trains it: the plain twin of the diversified one.

Launch: ``GPUS=16 bash tools/slurm_train.sh PARTITION JOB
mmdiverse/configs/swin_transformer/swin_tiny_16xb64_in1k.py DIR``
"""
from mmengine.config import read_base
from mmengine.model import ConstantInit, TruncNormalInit
from mmpretrain.models import (
    CutMix,
    GlobalAveragePooling,
    ImageClassifier,
    LabelSmoothLoss,
    LinearClsHead,
    Mixup,
    SwinTransformer,
)

with read_base():
    from .._base_.adamw_bs1024 import *
    from .._base_.default_runtime import *
    from .._base_.imagenet_224 import *

model = dict(
    type=ImageClassifier,
    backbone=dict(type=SwinTransformer, arch='tiny', img_size=224, drop_path_rate=0.2),
    neck=dict(type=GlobalAveragePooling),
    head=dict(
        type=LinearClsHead,
        num_classes=1000,
        in_channels=768,
        init_cfg=None,  # that of the model below is for all layers
        loss=dict(type=LabelSmoothLoss, label_smooth_val=0.1, mode='original'),
        cal_acc=False),
    init_cfg=[
        dict(type=TruncNormalInit, layer='Linear', std=0.02, bias=0.),
        dict(type=ConstantInit, layer='LayerNorm', val=1., bias=0.),
    ],
    train_cfg=dict(augments=[dict(type=Mixup, alpha=0.8), dict(type=CutMix, alpha=1.0)]))

optim_wrapper.update(clip_grad=dict(max_norm=5.0))
