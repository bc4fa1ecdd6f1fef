# DeiT-B on ImageNet-1k in MMPretrain's own settings, diversified with the authors' coefficients
# (Chen et al., CVPR 2022) at all levels, with patch-level mixing. The plain twin is
# mmpretrain::deit/deit-base_16xb64_in1k.py.
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB \
#       configs/deit/deit-base_diverse_16xb64_in1k.py DIR
_base_ = ['./deit-base_patch-mixing_16xb64_in1k.py', '../_base_/diversity/official.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
