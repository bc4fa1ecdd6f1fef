# Diversifies a trained DeiT-S in 20 epochs on ImageNet-1k, with the authors' terms (Chen et al.,
# CVPR 2022) at all levels and without patch-level mixing; everything else is that of
# deit-small_8xb128-ft-20e_in1k.py, which says where it starts from.
#   bash tools/dist_train.sh configs/deit/deit-small_diverse_8xb128-ft-20e_in1k.py 8
_base_ = ['./deit-small_8xb128-ft-20e_in1k.py', '../_base_/diversity/official.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
