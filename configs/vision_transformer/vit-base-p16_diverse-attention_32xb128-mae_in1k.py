# ViT-B/16 on ImageNet-1k by MMPretrain's recipe after MAE, diversified at one level alone,
# attention heads. The plain twin is
# mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py.
#   GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
#       configs/vision_transformer/vit-base-p16_diverse-attention_32xb128-mae_in1k.py DIR
_base_ = [
    'mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py',
    '../_base_/diversity/attention.py',
]

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
