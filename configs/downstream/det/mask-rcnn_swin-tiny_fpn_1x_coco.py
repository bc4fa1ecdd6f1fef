# Mask R-CNN on COCO with a diversified Swin-T of MMPretrain; everything else is MMDetection's own
# config for 8 GPUs with 2 images each.
#   bash tools/dist_train.sh configs/downstream/det/mask-rcnn_swin-tiny_fpn_1x_coco.py 8
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/pretrained.py']

# The path alone, since the recipe keeps no average of the weights. Where one does, `ema:PATH` takes
# the average that EMAHook saved, and `model:PATH` the weights that were trained.
pretrained = 'work_dirs/swin-tiny_diverse_16xb64_in1k/epoch_300.pth'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')))

# MMDetection's own default, which MMPretrain's train.py and test.py would replace.
train_dataloader = val_dataloader = test_dataloader = dict(collate_fn=dict(type='pseudo_collate'))
