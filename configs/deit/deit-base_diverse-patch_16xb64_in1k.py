# DeiT-B on ImageNet-1k in MMPretrain's own settings, with the authors' terms at one level alone,
# patch tokens. The plain twin is mmpretrain::deit/deit-base_16xb64_in1k.py.
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB \
#       configs/deit/deit-base_diverse-patch_16xb64_in1k.py DIR
_base_ = ['mmpretrain::deit/deit-base_16xb64_in1k.py', '../_base_/diversity/official_patch.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
