# DeiT-S on ImageNet-1k with the patch-level mixing of Chen et al. (CVPR 2022) alone: every patch is
# classified, by the share of its own pixels. Everything else is that of deit-small_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-small_patch-mixing_8xb128_in1k.py 8
_base_ = ['./deit-small_8xb128_in1k.py']

data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=16)
model = dict(
    backbone=dict(out_type='raw'),
    head=dict(
        type='mmdiverse.PatchMixingClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8, partner='flip'),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0, partner='flip'),
    ]))
