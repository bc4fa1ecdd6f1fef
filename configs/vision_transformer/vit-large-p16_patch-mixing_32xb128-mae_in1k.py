# ViT-L/16 on ImageNet-1k by MMPretrain's recipe after MAE, with the patch-level mixing of Chen et
# al. (CVPR 2022) alone. The plain twin is vit-large-p16_32xb128-mae_in1k.py.
#   GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
#       configs/vision_transformer/vit-large-p16_patch-mixing_32xb128-mae_in1k.py DIR
_base_ = ['./vit-large-p16_32xb128-mae_in1k.py']

data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=16)
model = dict(
    backbone=dict(out_type='raw'),
    head=dict(
        type='mmdiverse.PatchMixingClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0),
    ]))
