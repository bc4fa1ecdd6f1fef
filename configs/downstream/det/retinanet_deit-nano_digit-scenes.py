# RetinaNet on scenes of digits with a nano DeiT, sized for a CPU.
#   python tools/downstream/compare.py     # pretrains, plain and diversified, and fine-tunes both
# Alone, after tools/train.py with configs/digits/deit-nano_diverse_digits.py:
#   python tools/downstream/make_digit_scenes.py
#   python tools/train.py configs/downstream/det/retinanet_deit-nano_digit-scenes.py
_base_ = ['mmdet::_base_/default_runtime.py', '../_base_/pretrained.py']

pretrained = 'work_dirs/deit-nano_diverse_digits/epoch_20.pth'
data_root = 'data/digit_scenes/'

model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[76.] * 3, std=[93.] * 3, pad_size_divisor=4),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=192),
        img_size=16,
        patch_size=2,
        out_type='featmap',
        out_indices=(2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    neck=dict(
        type='mmseg.MultiLevelNeck',
        in_channels=[48, 48],
        out_channels=48,
        scales=[1, 0.5],
        norm_cfg=dict(type='GN', num_groups=8)),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=10,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        # Digits are narrow, and of 7 to 24 pixels.
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.7],
            octave_base_scale=3.5,
            scales_per_octave=2,
            strides=[2, 4]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.,
                      ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False),
    # No least score: where nothing is detected at first, COCO's evaluation gives no metric.
    test_cfg=dict(nms_pre=200, min_bbox_size=0, score_thr=0.,
                  nms=dict(type='nms', iou_threshold=0.5), max_per_img=20))

dataset = dict(
    type='CocoDataset', data_root=data_root, metainfo=dict(classes=tuple('0123456789')))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale_factor=2 / 3, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=2 / 3, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(**dataset, ann_file='annotations/instances_train.json',
                 data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(**dataset, ann_file='annotations/instances_val.json', test_mode=True,
                 data_prefix=dict(img='val/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/instances_val.json',
                     metric='bbox', metric_items=['mAP', 'mAP_50'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.),
    clip_grad=dict(max_norm=5.))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=6, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
