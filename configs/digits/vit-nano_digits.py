# A nano ViT on the embedded digits, plain: as the nano DeiT, without its stronger augmentation.
#   python tools/train.py configs/digits/vit-nano_digits.py
_base_ = ['./deit-nano_digits.py']

model = dict(
    head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss', loss_weight=1.0)),
    train_cfg=None)
