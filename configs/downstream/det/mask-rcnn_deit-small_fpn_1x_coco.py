# Mask R-CNN on COCO with a diversified DeiT-S of MMPretrain; heads, data and schedule are those of
# MMDetection's Mask R-CNN with a Swin-T, for 8 GPUs with 2 images each.
#   bash tools/dist_train.sh configs/downstream/det/mask-rcnn_deit-small_fpn_1x_coco.py 8
# It needs MMSegmentation too, for the neck: maps of four blocks, all of stride 16, become strides
# 4, 8, 16 and 32 by transposed convolutions and pooling, and go through an FPN, as in Li et al.,
# Benchmarking Detection Transfer Learning with Vision Transformers (arXiv 2111.11429). It is not
# ViTDet, whose pyramid comes from the last block alone and whose attention is windowed: MMDetection
# keeps that outside its package. Here every block attends to the whole image.
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/pretrained.py']

# `ema:` takes the average of the weights that EMAHook saved, `model:` those that were trained; the
# path alone where a checkpoint has no average.
pretrained = 'ema:work_dirs/deit-small_diverse_8xb128_in1k/epoch_300.pth'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-small',
        # The table of positions keeps the size of the checkpoint's and is interpolated in every
        # step, since images differ in size.
        img_size=224,
        drop_path_rate=0.1,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    neck=[
        # Its own default is BatchNorm over all processes, noisy with 2 images on each.
        dict(type='mmseg.Feature2Pyramid', embed_dim=384,
             norm_cfg=dict(type='GN', num_groups=32)),
        dict(type='FPN', in_channels=[384, 384, 384, 384], out_channels=256, num_outs=5),
    ])

# AdamW and its rate are those of the Swin-T.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True, **{
    '.pos_embed': dict(decay_mult=0.),
    '.cls_token': dict(decay_mult=0.),
    '.ln1': dict(decay_mult=0.),
    '.ln2': dict(decay_mult=0.),
})))

# MMDetection's own default, which MMPretrain's train.py and test.py would replace.
train_dataloader = val_dataloader = test_dataloader = dict(collate_fn=dict(type='pseudo_collate'))
