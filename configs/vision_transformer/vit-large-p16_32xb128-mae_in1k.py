# ViT-L/16 on ImageNet-1k from scratch, by the recipe of MAE (He et al., CVPR 2022, arXiv
# 2111.06377, table 11), as MMPretrain trains its ViT-B/16, with what MAE changes for this size: 200
# epochs and drop path 0.2. The plain twin of the diversified ViT-L/16.
#   GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
#       configs/vision_transformer/vit-large-p16_32xb128-mae_in1k.py DIR
_base_ = ['mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py']

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.2), head=dict(in_channels=1024))
train_cfg = dict(max_epochs=200)
