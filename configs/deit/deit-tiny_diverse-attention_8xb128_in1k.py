# DeiT-Ti on ImageNet-1k with the authors' terms at one level alone, attention heads. Everything
# else is that of deit-tiny_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-tiny_diverse-attention_8xb128_in1k.py 8
_base_ = ['./deit-small_diverse-attention_8xb128_in1k.py']

model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))
