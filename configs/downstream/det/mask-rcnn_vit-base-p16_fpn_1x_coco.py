# Mask R-CNN on COCO with a diversified ViT-B of MMPretrain; everything else is that of
# mask-rcnn_deit-small_fpn_1x_coco.py.
#   bash tools/dist_train.sh configs/downstream/det/mask-rcnn_vit-base-p16_fpn_1x_coco.py 8
_base_ = ['./mask-rcnn_deit-small_fpn_1x_coco.py']

# Or `model:`; see mask-rcnn_deit-small_fpn_1x_coco.py.
pretrained = 'ema:work_dirs/vit-base-p16_diverse_32xb128-mae_in1k/epoch_300.pth'

model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint=pretrained)),
    neck=[
        dict(type='mmseg.Feature2Pyramid', embed_dim=768,
             norm_cfg=dict(type='GN', num_groups=32)),
        dict(type='FPN', in_channels=[768, 768, 768, 768], out_channels=256, num_outs=5),
    ])
