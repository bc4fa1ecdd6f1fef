# A nano ViT on the embedded digits, plain: as the nano DeiT, without its stronger augmentation.
#   python tools/train.py configs/digits/vit-nano_digits.py
_base_ = ['../_base_/digits_bs64.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=64, num_layers=6, num_heads=4, feedforward_channels=256),
        img_size=16,
        patch_size=2),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=.02),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
