# DeiT-S on ImageNet-1k as DeiT trains it, and the authors of the diversity terms (Chen et al., CVPR
# 2022): the plain twin of deit-small_diverse_8xb128_in1k.py and of its single levels.
#   bash tools/dist_train.sh configs/deit/deit-small_8xb128_in1k.py 8
# Beyond MMPretrain's own DeiT-S it has an average of the weights, drop path, repeated augmentation,
# 5 epochs of warm-up, and no clipping.
_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py']

model = dict(backbone=dict(drop_path_rate=0.1))
train_dataloader = dict(
    batch_size=128, sampler=dict(_delete_=True, type='RepeatAugSampler', shuffle=True))
optim_wrapper = dict(clip_grad=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5),
]
default_hooks = dict(checkpoint=dict(type='mmdiverse.SafeCheckpointHook'))
custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]
