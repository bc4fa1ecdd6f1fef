# DeiT-B on ImageNet-1k with the authors' terms at one level alone, query, key and value matrices.
# Everything else is that of deit-base_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-base_diverse-weight_8xb128_in1k.py 8
_base_ = ['./deit-small_diverse-weight_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
