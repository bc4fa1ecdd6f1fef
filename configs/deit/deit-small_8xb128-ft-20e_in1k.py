# 20 more epochs of DeiT-S on ImageNet-1k, from the checkpoint of deit-small_8xb128_in1k.py: the
# plain twin of deit-small_diverse_8xb128-ft-20e_in1k.py. Any checkpoint with the keys of
# MMPretrain's DeiT-S will do; name it with `--cfg-options load_from=CHECKPOINT`. Where it holds the
# average of EMAHook and you have another number of classes, write `load_from=ema:CHECKPOINT`.
#   bash tools/dist_train.sh configs/deit/deit-small_8xb128-ft-20e_in1k.py 8
# The learning rate is a twentieth of that of training from scratch. Not tuned by us.
_base_ = ['./deit-small_8xb128_in1k.py']

load_from = 'work_dirs/deit-small_8xb128_in1k/epoch_300.pth'
optim_wrapper = dict(optimizer=dict(lr=5e-5))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=2),
]
train_cfg = dict(max_epochs=20)
