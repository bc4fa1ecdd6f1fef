# A nano Swin on the embedded digits, plain: two stages of 8 x 8 and 4 x 4 tokens.
#   python tools/train.py configs/digits/swin-nano_digits.py
_base_ = ['../_base_/digits_bs32.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=32, depths=[2, 4], num_heads=[2, 4]),
        img_size=16,
        patch_size=2,
        window_size=4,
        out_indices=(1, ),
        drop_path_rate=0.),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        init_cfg=None,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    # Swin's 0.02 suits hundreds of channels.
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.1, bias=0.),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ],
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
