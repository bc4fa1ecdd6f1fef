# timm's ViT-S/16 on ImageNet-1k, diversified with the authors' terms (Chen et al., CVPR 2022) at
# all levels and without patch-level mixing; everything else is that of
# vit-small-p16_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/timm/vit-small-p16_diverse_8xb128_in1k.py 8
_base_ = ['./vit-small-p16_8xb128_in1k.py', '../_base_/diversity/official.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
