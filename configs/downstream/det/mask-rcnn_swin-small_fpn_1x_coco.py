# Mask R-CNN on COCO with a diversified Swin-S of MMPretrain; everything else is that of
# mask-rcnn_swin-tiny_fpn_1x_coco.py.
#   bash tools/dist_train.sh configs/downstream/det/mask-rcnn_swin-small_fpn_1x_coco.py 8
_base_ = ['./mask-rcnn_swin-tiny_fpn_1x_coco.py']

# The recipe keeps no average of the weights; see mask-rcnn_swin-tiny_fpn_1x_coco.py.
pretrained = 'work_dirs/swin-small_diverse_16xb64_in1k/epoch_300.pth'

model = dict(backbone=dict(arch='small', init_cfg=dict(checkpoint=pretrained)))
