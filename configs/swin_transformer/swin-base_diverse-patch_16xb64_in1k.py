# Swin-B on ImageNet-1k, diversified at one level alone, patch tokens. The plain twin is
# mmpretrain::swin_transformer/swin-base_16xb64_in1k.py.
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB \
#       configs/swin_transformer/swin-base_diverse-patch_16xb64_in1k.py DIR
_base_ = [
    'mmpretrain::swin_transformer/swin-base_16xb64_in1k.py',
    '../_base_/diversity/swin_patch.py',
]

custom_hooks = [_base_.diversity]
