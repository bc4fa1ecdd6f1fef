# Swin-T on ImageNet-1k, diversified at all three levels, with patch-level mixing of the last
# stage's 7 x 7 tokens. The paper covers Swin, the public code does not: terms are those of
# configs/_base_/diversity/swin.py, everything else is MMPretrain's own recipe.
#   bash tools/dist_train.sh configs/swin_transformer/swin-tiny_diverse_16xb64_in1k.py 16
_base_ = [
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', '../_base_/diversity/swin.py'
]

data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=32)
model = dict(
    neck=None,
    head=dict(
        type='mmdiverse.PatchMixingLinearClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0),
    ]))
default_hooks = dict(checkpoint=dict(type='mmdiverse.SafeCheckpointHook'))
custom_hooks = [_base_.diversity]
