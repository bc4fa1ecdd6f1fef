# DeiT-Ti for 32 x 32 pixels. CIFAR-10, patch-level mixing alone: every patch is classified.
#   python tools/train.py configs/cifar/deit-tiny-p4_patch-mixing_1xb128_cifar10.py
_base_ = ['./deit-tiny-p4_1xb128_cifar10.py']

data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=4)
model = dict(
    backbone=dict(out_type='raw'),
    head=dict(
        type='mmdiverse.PatchMixingClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0),
    ]))
