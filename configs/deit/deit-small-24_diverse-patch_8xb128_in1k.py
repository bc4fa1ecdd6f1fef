# DeiT-S with 24 layers on ImageNet-1k with the authors' terms at one level alone, patch tokens.
# Everything else is that of deit-small-24_8xb128_in1k.py.
#   bash tools/dist_train.sh configs/deit/deit-small-24_diverse-patch_8xb128_in1k.py 8
_base_ = ['./deit-small_diverse-patch_8xb128_in1k.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,  # the base has a name here
            embed_dims=384,
            num_layers=24,
            num_heads=6,
            feedforward_channels=384 * 4)))
