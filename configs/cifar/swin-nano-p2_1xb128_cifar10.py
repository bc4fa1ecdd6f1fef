# A Swin for 32 x 32 pixels: 12 layers in three stages, 256 patches of 2 x 2, windows of 4 x 4.
# CIFAR-10, plain.
#   python tools/train.py configs/cifar/swin-nano-p2_1xb128_cifar10.py
_base_ = ['../_base_/cifar10_bs128.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=96, depths=[2, 8, 2], num_heads=[3, 6, 12]),
        img_size=32,
        patch_size=2,
        window_size=4,
        out_indices=(2, ),
        drop_path_rate=0.1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=.02),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ],
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
