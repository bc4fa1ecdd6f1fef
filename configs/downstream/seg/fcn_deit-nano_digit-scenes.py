# FCN on scenes of digits with a nano DeiT, sized for a CPU.
#   python tools/downstream/compare.py     # pretrains, plain and diversified, and fine-tunes both
# Alone, after tools/train.py with configs/digits/deit-nano_diverse_digits.py:
#   python tools/downstream/make_digit_scenes.py
#   python tools/train.py configs/downstream/seg/fcn_deit-nano_digit-scenes.py
_base_ = ['mmseg::_base_/default_runtime.py', '../_base_/pretrained.py']

pretrained = 'work_dirs/deit-nano_diverse_digits/epoch_20.pth'
data_root = 'data/digit_scenes/'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[76.] * 3, std=[93.] * 3, size_divisor=8, seg_pad_val=255),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=192),
        img_size=16,
        patch_size=2,
        out_type='featmap',
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    # Coarser maps let the head see whole digits.
    neck=dict(
        type='MultiLevelNeck', in_channels=[48, 48, 48], out_channels=48, scales=[1, 0.5, 0.25]),
    decode_head=dict(
        type='FCNHead',
        num_classes=11,
        in_channels=[48, 48, 48],
        in_index=[0, 1, 2],
        input_transform='resize_concat',
        channels=48,
        num_convs=2,
        concat_input=False,
        dropout_ratio=0.,
        norm_cfg=dict(type='GN', num_groups=8),
        align_corners=False,
        # The usual 0.01 begins where all digits look alike, and stays there for epochs.
        init_cfg=dict(type='Normal', std=0.5, override=dict(name='conv_seg')),
        # Of 20 pixels 19 are background. A sum, since MMSegmentation's weighted mean fails at
        # ignored pixels.
        loss_decode=dict(
            type='CrossEntropyLoss', class_weight=[0.1] + [1.] * 10, reduction='sum',
            loss_weight=1e-3)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))

dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    img_suffix='.png',
    metainfo=dict(classes=('background', *'0123456789')))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale_factor=2 / 3, keep_ratio=True),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=2 / 3, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(**dataset, data_prefix=dict(img_path='train', seg_map_path='masks/train'),
                 pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(**dataset, data_prefix=dict(img_path='val', seg_map_path='masks/val'),
                 pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.),
    clip_grad=dict(max_norm=5.))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=25),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=25),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'))
log_processor = dict(by_epoch=True)
