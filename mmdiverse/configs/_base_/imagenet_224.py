"""ImageNet-1k at 224 pixels with the augmentations of DeiT and Swin; 64 images for each GPU."""
from mmcv.transforms import LoadImageFromFile, RandomFlip
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import (
    CenterCrop,
    ImageNet,
    PackInputs,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ResizeEdge,
)
from mmpretrain.evaluation import Accuracy

data_preprocessor = dict(
    num_classes=1000,
    # RGB; images are read as BGR
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_dataloader = dict(
    batch_size=64,
    num_workers=5,
    dataset=dict(
        type=ImageNet,
        data_root='data/imagenet',
        split='train',
        pipeline=[
            dict(type=LoadImageFromFile),
            dict(type=RandomResizedCrop, scale=224, backend='pillow', interpolation='bicubic'),
            dict(type=RandomFlip, prob=0.5, direction='horizontal'),
            dict(
                type=RandAugment,
                policies='timm_increasing',
                num_policies=2,
                total_level=10,
                magnitude_level=9,
                magnitude_std=0.5,
                hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
            dict(
                type=RandomErasing,
                erase_prob=0.25,
                mode='rand',
                min_area_ratio=0.02,
                max_area_ratio=1 / 3,
                fill_color=[103.53, 116.28, 123.675],
                fill_std=[57.375, 57.12, 58.395]),
            dict(type=PackInputs),
        ]),
    sampler=dict(type=DefaultSampler, shuffle=True))

val_dataloader = dict(
    batch_size=64,
    num_workers=5,
    dataset=dict(
        type=ImageNet,
        data_root='data/imagenet',
        split='val',
        pipeline=[
            dict(type=LoadImageFromFile),
            dict(type=ResizeEdge, scale=256, edge='short', backend='pillow',
                 interpolation='bicubic'),
            dict(type=CenterCrop, crop_size=224),
            dict(type=PackInputs),
        ]),
    sampler=dict(type=DefaultSampler, shuffle=False))
val_evaluator = dict(type=Accuracy, topk=(1, 5))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
