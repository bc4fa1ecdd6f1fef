# ViT-L/16 on ImageNet-1k by MMPretrain's recipe after MAE, diversified at all levels, with
# patch-level mixing. Terms are those of configs/_base_/diversity/all.py. The plain twin is
# vit-large-p16_32xb128-mae_in1k.py.
#   GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
#       configs/vision_transformer/vit-large-p16_diverse_32xb128-mae_in1k.py DIR
_base_ = ['./vit-large-p16_patch-mixing_32xb128-mae_in1k.py', '../_base_/diversity/all.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
