# UPerNet on ADE20K with a diversified DeiT-S of MMPretrain; everything else is MMSegmentation's own
# config for 8 GPUs with 2 images each, the one with a norm after the last block.
#   bash tools/dist_train.sh \
#       configs/downstream/seg/deit-small_mln_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = [
    'mmseg::vit/vit_deit-s16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py',
    '../_base_/pretrained.py',
]

# `ema:` takes the average of the weights that EMAHook saved, `model:` those that were trained; the
# path alone where a checkpoint has no average.
pretrained = 'ema:work_dirs/deit-small_diverse_8xb128_in1k/epoch_300.pth'

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-small',
        img_size=512,
        drop_path_rate=0.1,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')))

# MMPretrain's names of the norms, which are not those of MMSegmentation's ViT.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={
    '.ln1': dict(decay_mult=0.),
    '.ln2': dict(decay_mult=0.),
}))

# MMSegmentation's own default, which MMPretrain's train.py and test.py would replace.
train_dataloader = val_dataloader = test_dataloader = dict(collate_fn=dict(type='pseudo_collate'))
