# DeiT-S on ImageNet-1k in MMPretrain's own settings, diversified with the authors' coefficients
# (Chen et al., CVPR 2022) at all levels, with patch-level mixing. The plain twin is
# mmpretrain::deit/deit-small_4xb256_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-small_diverse_4xb256_in1k.py 4
_base_ = ['./deit-small_patch-mixing_4xb256_in1k.py', '../_base_/diversity/official.py']

custom_hooks = [_base_.diversity]
