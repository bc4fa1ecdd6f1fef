# Swin-B on ImageNet-1k with patch-level mixing (Chen et al., CVPR 2022) of the last stage's 7 x 7
# tokens alone. The plain twin is mmpretrain::swin_transformer/swin-base_16xb64_in1k.py.
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB \
#       configs/swin_transformer/swin-base_patch-mixing_16xb64_in1k.py DIR
_base_ = ['mmpretrain::swin_transformer/swin-base_16xb64_in1k.py']

data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=32)
model = dict(
    neck=None,
    head=dict(
        type='mmdiverse.PatchMixingLinearClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0),
    ]))
