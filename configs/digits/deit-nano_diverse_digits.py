# A nano DeiT on the embedded digits, diversified at all three levels, with patch-level mixing.
#   python tools/train.py configs/digits/deit-nano_diverse_digits.py
#   python tools/compare.py configs/digits/deit-nano_diverse_digits.py    # beside its plain twin
_base_ = ['./deit-nano_digits.py', '../_base_/diversity/all.py']

data_preprocessor = dict(type='mmdiverse.PatchMixingDataPreprocessor', patch_size=2)
model = dict(
    backbone=dict(out_type='raw'),
    head=dict(
        type='mmdiverse.PatchMixingClsHead',
        loss=dict(_delete_=True, type='mmdiverse.PatchMixingLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='mmdiverse.PatchMixup', alpha=0.8),
        dict(type='mmdiverse.PatchCutMix', alpha=1.0),
    ]))
# With the fragment's own coefficients, the heads of this model stay as they are.
_base_.diversity.terms[2].weight = 0.1
_base_.diversity.terms[3].weight = 0.02
custom_hooks = [_base_.diversity]
