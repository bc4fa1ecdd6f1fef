# DeiT-Ti on ImageNet-1k with the authors' terms at one level alone, patch tokens. Everything else
# is that of deit-tiny_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-tiny_diverse-patch_8xb128_in1k.py 8
_base_ = ['./deit-small_diverse-patch_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))
