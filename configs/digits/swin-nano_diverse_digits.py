# A nano Swin on the embedded digits, diversified at all three levels, with patch-level mixing.
#   python tools/train.py configs/digits/swin-nano_diverse_digits.py
#   python tools/compare.py configs/digits/swin-nano_diverse_digits.py    # beside its plain twin
_base_ = ['./swin-nano_digits.py', '../_base_/diversity/swin.py']

# A token of the last stage covers 2 x 2 patches of 2 pixels.
data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=4)
model = dict(
    neck=None,
    head=dict(
        type='mmdiverse.PatchMixingLinearClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0),
    ]))
custom_hooks = [_base_.diversity]
