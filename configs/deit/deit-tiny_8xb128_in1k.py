# DeiT-Ti on ImageNet-1k, as DeiT trains it: the plain twin of deit-tiny_diverse_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-tiny_8xb128_in1k.py 8
_base_ = ['./deit-small_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))
