# A nano ViT on the embedded digits, plain: as the nano DeiT, without its stronger augmentation.
#   python tools/train.py configs/digits/vit-nano_digits.py
_base_ = ['../_base_/digits_bs32.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=192),
        img_size=16,
        patch_size=2),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=48,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    # As in deit-nano_digits.py.
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=.15),
        dict(type='TruncNormal', layer='Conv2d', std=.01),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
