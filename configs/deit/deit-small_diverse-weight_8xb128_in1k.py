# DeiT-S on ImageNet-1k with the authors' terms (Chen et al., CVPR 2022) at one level alone,
# weights: conditional orthogonality of q, k and v.
# Everything else is that of deit-small_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-small_diverse-weight_8xb128_in1k.py 8
_base_ = ['./deit-small_8xb128_in1k.py', '../_base_/diversity/official_weight.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
