# Mask R-CNN on COCO with a DeiT-S, diversified at all levels while it is fine-tuned too; everything
# else, and the checkpoint it starts from, is that of mask-rcnn_deit-small_fpn_1x_coco.py.
#   bash tools/dist_train.sh configs/downstream/det/mask-rcnn_deit-small_fpn_diverse_1x_coco.py 8
_base_ = ['./mask-rcnn_deit-small_fpn_1x_coco.py', '../../_base_/diversity/all.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
