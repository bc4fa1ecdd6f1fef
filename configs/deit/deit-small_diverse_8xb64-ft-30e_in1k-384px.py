# DeiT-S on ImageNet-1k at 384 pixels, diversified with the authors' terms (Chen et al., CVPR 2022)
# at all levels and without patch-level mixing; everything else is that of
# deit-small_8xb64-ft-30e_in1k-384px.py. To go on from a diversified checkpoint, `--cfg-options
# load_from=work_dirs/deit-small_diverse_8xb128_in1k/epoch_300.pth`.
#   bash tools/dist_train.sh configs/deit/deit-small_diverse_8xb64-ft-30e_in1k-384px.py 8
_base_ = ['./deit-small_8xb64-ft-30e_in1k-384px.py', '../_base_/diversity/official.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
