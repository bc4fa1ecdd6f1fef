# DeiT-Ti on ImageNet-1k with the authors' patch-level mixing alone. Everything else is that of
# deit-tiny_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-tiny_patch-mixing_8xb128_in1k.py 8
_base_ = ['./deit-small_patch-mixing_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))
