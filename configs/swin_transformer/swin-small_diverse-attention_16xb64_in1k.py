# Swin-S on ImageNet-1k, diversified at one level alone, attention heads. The plain twin is
# mmpretrain::swin_transformer/swin-small_16xb64_in1k.py.
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB \
#       configs/swin_transformer/swin-small_diverse-attention_16xb64_in1k.py DIR
_base_ = [
    'mmpretrain::swin_transformer/swin-small_16xb64_in1k.py',
    '../_base_/diversity/attention.py',
]

custom_hooks = [_base_.diversity]
