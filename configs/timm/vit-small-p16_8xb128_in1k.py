# timm's ViT-S/16 on ImageNet-1k by the recipe of deit-small_8xb128_in1k.py: the plain twin of
# vit-small-p16_diverse_8xb128_in1k.py. Any vision transformer of timm may take its place as
# `model.backbone.model_name`, with its width as `model.head.in_channels`.
#   bash tools/dist_train.sh configs/timm/vit-small-p16_8xb128_in1k.py 8
_base_ = ['../deit/deit-small_8xb128_in1k.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='vit_small_patch16_224',
        drop_path_rate=0.1),
    neck=dict(_delete_=True, type='mmdiverse.ClassTokenNeck'))  # the base has None here
