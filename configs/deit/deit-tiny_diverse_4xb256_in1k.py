# DeiT-Ti on ImageNet-1k in MMPretrain's own settings, diversified with the authors' coefficients
# (Chen et al., CVPR 2022) at all levels, with patch-level mixing. The plain twin is
# mmpretrain::deit/deit-tiny_4xb256_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-tiny_diverse_4xb256_in1k.py 4
_base_ = ['./deit-tiny_patch-mixing_4xb256_in1k.py', '../_base_/diversity/official.py']

custom_hooks = [_base_.diversity]
