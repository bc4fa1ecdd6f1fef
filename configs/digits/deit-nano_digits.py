# A nano DeiT on the embedded digits, plain.
#   python tools/train.py configs/digits/deit-nano_digits.py
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
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    # DeiT's 0.02 suits 384 channels. With 48, tokens would hardly reach the class token at first;
    # and patches no larger than the position embedding keep positions visible.
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=.15),
        dict(type='TruncNormal', layer='Conv2d', std=.01),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ],
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
