# DeiT-Ti of 24 layers for 32 x 32 pixels. CIFAR-10, diversified at all three levels by the sound
# forms, with patch-level mixing.
#   python tools/train.py configs/cifar/deit-tiny-24-p4_diverse_1xb128_cifar10.py
_base_ = ['./deit-tiny-24-p4_patch-mixing_1xb128_cifar10.py', '../_base_/diversity/all.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
