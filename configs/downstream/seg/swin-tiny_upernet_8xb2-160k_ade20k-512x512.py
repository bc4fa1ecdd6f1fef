# UPerNet on ADE20K with a diversified Swin-T of MMPretrain; everything else is MMSegmentation's own
# config for 8 GPUs with 2 images each.
#   bash tools/dist_train.sh configs/downstream/seg/swin-tiny_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = [
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    '../_base_/pretrained.py',
]

# The path alone, since the recipe keeps no average of the weights. Where one does, `ema:PATH` takes
# the average that EMAHook saved, and `model:PATH` the weights that were trained.
pretrained = 'work_dirs/swin-tiny_diverse_16xb64_in1k/epoch_300.pth'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        drop_path_rate=0.3,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')))

# MMSegmentation's own default, which MMPretrain's train.py and test.py would replace.
train_dataloader = val_dataloader = test_dataloader = dict(collate_fn=dict(type='pseudo_collate'))
