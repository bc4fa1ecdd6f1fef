# DeiT-Ti of 24 layers for 32 x 32 pixels. CIFAR-10, diversified at one level alone: attention
# heads.
#   python tools/train.py configs/cifar/deit-tiny-24-p4_diverse-attention_1xb128_cifar10.py
_base_ = ['./deit-tiny-24-p4_1xb128_cifar10.py', '../_base_/diversity/attention.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
