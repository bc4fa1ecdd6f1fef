# Swin-B on ImageNet-1k, diversified at all three levels, with patch-level mixing of the last
# stage's 7 x 7 tokens. The paper covers Swin, the public code does not: terms are those of
# configs/_base_/diversity/swin.py. The plain twin is
# mmpretrain::swin_transformer/swin-base_16xb64_in1k.py.
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB \
#       configs/swin_transformer/swin-base_diverse_16xb64_in1k.py DIR
_base_ = ['./swin-base_patch-mixing_16xb64_in1k.py', '../_base_/diversity/swin.py']

custom_hooks = [_base_.diversity]
