# DeiT-S on ImageNet-1k, diversified with the authors' coefficients (Chen et al., CVPR 2022).
#   bash tools/dist_train.sh configs/deit/deit-small_diverse_8xb128_in1k.py 8
# Beyond MMPretrain's own DeiT-S this restores what DeiT trains with, and the authors keep: an
# average of the weights, drop path, repeated augmentation, 5 epochs of warm-up, no clipping.
_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py', '../_base_/diversity/official.py']

data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=16)
model = dict(
    backbone=dict(drop_path_rate=0.1, out_type='raw'),
    head=dict(
        type='mmdiverse.PatchMixingClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8, partner='flip'),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0, partner='flip'),
    ]))

train_dataloader = dict(
    batch_size=128, sampler=dict(_delete_=True, type='RepeatAugSampler', shuffle=True))
optim_wrapper = dict(clip_grad=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5),
]
default_hooks = dict(checkpoint=dict(type='mmdiverse.SafeCheckpointHook'))
custom_hooks = [
    dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'),
    _base_.diversity,
]
