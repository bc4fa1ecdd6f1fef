# DeiT-Ti of 24 layers for 32 x 32 pixels. CIFAR-10, patch-level mixing alone: every patch is
# classified.
#   python tools/train.py configs/cifar/deit-tiny-24-p4_patch-mixing_1xb128_cifar10.py
_base_ = ['./deit-tiny-p4_patch-mixing_1xb128_cifar10.py']

model = dict(backbone=dict(arch=dict(num_layers=24)))
