# A Swin of 24 layers for 32 x 32 pixels. CIFAR-10, plain.
#   python tools/train.py configs/cifar/swin-nano-24-p2_1xb128_cifar10.py
_base_ = ['./swin-nano-p2_1xb128_cifar10.py']

model = dict(backbone=dict(arch=dict(depths=[2, 20, 2])))
