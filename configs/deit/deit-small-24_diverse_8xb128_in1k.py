# DeiT-S with 24 layers on ImageNet-1k, diversified: the 12-layer recipe and coefficients as they
# are, as in the authors' code.
#   bash tools/dist_train.sh configs/deit/deit-small-24_diverse_8xb128_in1k.py 8
_base_ = ['./deit-small_diverse_8xb128_in1k.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,  # the base has a name here
            embed_dims=384,
            num_layers=24,
            num_heads=6,
            feedforward_channels=384 * 4)))
