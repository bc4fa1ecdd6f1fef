# DeiT-S on ImageNet-1k in MMPretrain's own settings, with the authors' terms at one level alone,
# patch tokens. The plain twin is mmpretrain::deit/deit-small_4xb256_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-small_diverse-patch_4xb256_in1k.py 4
_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py', '../_base_/diversity/official_patch.py']

custom_hooks = [_base_.diversity]
