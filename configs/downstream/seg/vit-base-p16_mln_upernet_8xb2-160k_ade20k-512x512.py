# UPerNet on ADE20K with a diversified ViT-B of MMPretrain; everything else is that of
# deit-small_mln_upernet_8xb2-160k_ade20k-512x512.py, with the widths of MMSegmentation's ViT-B.
#   bash tools/dist_train.sh \
#       configs/downstream/seg/vit-base-p16_mln_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = ['./deit-small_mln_upernet_8xb2-160k_ade20k-512x512.py']

# Or `model:`; see deit-small_mln_upernet_8xb2-160k_ade20k-512x512.py.
pretrained = 'ema:work_dirs/vit-base-p16_diverse_32xb128-mae_in1k/epoch_300.pth'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[768, 768, 768, 768], out_channels=768),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768))
