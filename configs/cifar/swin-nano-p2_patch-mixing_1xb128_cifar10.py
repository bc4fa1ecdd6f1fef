# A Swin for 32 x 32 pixels. CIFAR-10, patch-level mixing alone: every patch is classified.
#   python tools/train.py configs/cifar/swin-nano-p2_patch-mixing_1xb128_cifar10.py
_base_ = ['./swin-nano-p2_1xb128_cifar10.py']

# Patches of the last stage.
data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=8)
model = dict(
    neck=None,
    head=dict(
        type='mmdiverse.PatchMixingLinearClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0),
    ]))
