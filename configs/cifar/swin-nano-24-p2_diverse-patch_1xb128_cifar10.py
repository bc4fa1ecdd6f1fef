# A Swin of 24 layers for 32 x 32 pixels. CIFAR-10, diversified at one level alone: patch tokens.
#   python tools/train.py configs/cifar/swin-nano-24-p2_diverse-patch_1xb128_cifar10.py
_base_ = ['./swin-nano-24-p2_1xb128_cifar10.py', '../_base_/diversity/swin_patch.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
