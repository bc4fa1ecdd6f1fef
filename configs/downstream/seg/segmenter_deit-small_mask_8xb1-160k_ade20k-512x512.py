# Segmenter with its mask transformer on ADE20K, with a diversified DeiT-S of MMPretrain; everything
# else is MMSegmentation's own config for 8 GPUs with 1 image each, which trains by SGD without any
# weight decay, as the authors of Segmenter do.
#   bash tools/dist_train.sh \
#       configs/downstream/seg/segmenter_deit-small_mask_8xb1-160k_ade20k-512x512.py 8
_base_ = [
    'mmseg::segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py', '../_base_/pretrained.py'
]

# `ema:` takes the average of the weights that EMAHook saved, `model:` those that were trained; the
# path alone where a checkpoint has no average.
pretrained = 'ema:work_dirs/deit-small_diverse_8xb128_in1k/epoch_300.pth'

model = dict(
    pretrained=None,
    # The backbone learned with these, not with the 127.5 of MMSegmentation's checkpoint.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-small',
        img_size=512,
        drop_path_rate=0.1,
        out_type='featmap',
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')))

# MMSegmentation's own default, which MMPretrain's train.py and test.py would replace.
train_dataloader = val_dataloader = test_dataloader = dict(collate_fn=dict(type='pseudo_collate'))
