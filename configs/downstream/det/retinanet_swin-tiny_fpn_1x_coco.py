# RetinaNet on COCO with a diversified Swin-T of MMPretrain; everything else but the optimizer is
# MMDetection's own config for 8 GPUs with 2 images each.
#   bash tools/dist_train.sh configs/downstream/det/retinanet_swin-tiny_fpn_1x_coco.py 8
_base_ = ['mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/pretrained.py']

# The path alone, since the recipe keeps no average of the weights. Where one does, `ema:PATH` takes
# the average that EMAHook saved, and `model:PATH` the weights that were trained.
pretrained = 'work_dirs/swin-tiny_diverse_16xb64_in1k/epoch_300.pth'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        drop_path_rate=0.2,
        # Without that of stage 0, which the FPN does not use: distributed training would stop.
        out_indices=(1, 2, 3),
        pad_small_map=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')))

# MMDetection trains this one by SGD. AdamW, its rate and the warm-up are those of its Mask R-CNN
# with a Swin; the authors of Swin train all of their detectors by AdamW.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={
        'relative_position_bias_table': dict(decay_mult=0.),
        'norm': dict(decay_mult=0.),
    }))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

# MMDetection's own default, which MMPretrain's train.py and test.py would replace.
train_dataloader = val_dataloader = test_dataloader = dict(collate_fn=dict(type='pseudo_collate'))
