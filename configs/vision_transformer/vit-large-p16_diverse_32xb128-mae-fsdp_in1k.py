# ViT-L/16 on ImageNet-1k under FSDP, diversified at all levels, with patch-level mixing; everything
# else is that of vit-large-p16_32xb128-mae-fsdp_in1k.py.
#   GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
#       configs/vision_transformer/vit-large-p16_diverse_32xb128-mae-fsdp_in1k.py DIR
_base_ = ['./vit-large-p16_32xb128-mae-fsdp_in1k.py', '../_base_/diversity/all.py']

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
custom_hooks = [_base_.diversity]
