# DeiT-Ti on ImageNet-1k, diversified at all levels: recipe and coefficients of
# deit-small_diverse_8xb128_in1k.py as they are.
#   bash tools/dist_train.sh configs/deit/deit-tiny_diverse_8xb128_in1k.py 8
_base_ = ['./deit-small_diverse_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))
