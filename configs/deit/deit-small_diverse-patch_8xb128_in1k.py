# DeiT-S on ImageNet-1k with the authors' terms (Chen et al., CVPR 2022) at one level alone,
# patch tokens: cosine within the last layer, contrast with the input.
# Everything else is that of deit-small_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-small_diverse-patch_8xb128_in1k.py 8
_base_ = ['./deit-small_8xb128_in1k.py', '../_base_/diversity/official_patch.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
