# DeiT-Ti for 32 x 32 pixels. CIFAR-10, diversified with the authors' terms, coefficients and patch-
# level mixing.
#   python tools/train.py configs/cifar/deit-tiny-p4_diverse-official_1xb128_cifar10.py
_base_ = ['./deit-tiny-p4_patch-mixing_1xb128_cifar10.py', '../_base_/diversity/official.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
