# DeiT-S on ImageNet-1k at 384 pixels, as DeiT fine-tunes it (Touvron et al., ICML 2021), from the
# checkpoint of deit-small_8xb128_in1k.py, whose position embedding is resized: the plain twin of
# deit-small_diverse_8xb64-ft-30e_in1k-384px.py. To start elsewhere, `--cfg-options
# load_from=CHECKPOINT`.
#   bash tools/dist_train.sh configs/deit/deit-small_8xb64-ft-30e_in1k-384px.py 8
_base_ = ['./deit-small_8xb128_in1k.py']

load_from = 'work_dirs/deit-small_8xb128_in1k/epoch_300.pth'
model = dict(backbone=dict(img_size=384))
train_pipeline = [
    {**step, 'scale': 384} if step['type'] == 'RandomResizedCrop' else step
    for step in _base_.train_pipeline
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=438, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=384),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-6, weight_decay=1e-8))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-1, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=5),
]
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=512)
