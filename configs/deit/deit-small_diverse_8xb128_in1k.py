# DeiT-S on ImageNet-1k, diversified with the authors' coefficients (Chen et al., CVPR 2022) at all
# levels, with patch-level mixing; everything else is that of deit-small_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-small_diverse_8xb128_in1k.py 8
_base_ = ['./deit-small_patch-mixing_8xb128_in1k.py', '../_base_/diversity/official.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
