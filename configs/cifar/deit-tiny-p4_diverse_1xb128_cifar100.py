# DeiT-Ti for 32 x 32 pixels. CIFAR-100, diversified at all three levels.
#   python tools/train.py configs/cifar/deit-tiny-p4_diverse_1xb128_cifar100.py
_base_ = ['./deit-tiny-p4_diverse_1xb128_cifar10.py']

data_preprocessor = dict(
    num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418])
model = dict(head=dict(num_classes=100))
train_dataloader = dict(dataset=dict(dataset=dict(type='CIFAR100', data_root='data/cifar100')))
val_dataloader = dict(dataset=dict(dataset=dict(type='CIFAR100', data_root='data/cifar100')))
test_dataloader = val_dataloader
