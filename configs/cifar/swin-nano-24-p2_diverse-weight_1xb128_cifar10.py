# A Swin of 24 layers for 32 x 32 pixels. CIFAR-10, diversified at one level alone: query, key and
# value matrices.
#   python tools/train.py configs/cifar/swin-nano-24-p2_diverse-weight_1xb128_cifar10.py
_base_ = ['./swin-nano-24-p2_1xb128_cifar10.py', '../_base_/diversity/weight.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
