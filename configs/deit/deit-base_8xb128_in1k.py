# DeiT-B on ImageNet-1k, as DeiT trains it: the plain twin of deit-base_diverse_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-base_8xb128_in1k.py 8
_base_ = ['./deit-small_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
