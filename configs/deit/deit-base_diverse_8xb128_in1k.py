# DeiT-B on ImageNet-1k, diversified at all levels: recipe and coefficients of
# deit-small_diverse_8xb128_in1k.py as they are.
#   bash tools/dist_train.sh configs/deit/deit-base_diverse_8xb128_in1k.py 8
_base_ = ['./deit-small_diverse_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
