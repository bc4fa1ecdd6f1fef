# UPerNet on ADE20K with a diversified Swin-S of MMPretrain; everything else is that of
# swin-tiny_upernet_8xb2-160k_ade20k-512x512.py.
#   bash tools/dist_train.sh configs/downstream/seg/swin-small_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = ['./swin-tiny_upernet_8xb2-160k_ade20k-512x512.py']

# The recipe keeps no average of the weights; see swin-tiny_upernet_8xb2-160k_ade20k-512x512.py.
pretrained = 'work_dirs/swin-small_diverse_16xb64_in1k/epoch_300.pth'

model = dict(backbone=dict(arch='small', init_cfg=dict(checkpoint=pretrained)))
