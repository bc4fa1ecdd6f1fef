# A nano ViT on the embedded digits, diversified at all three levels.
#   python tools/train.py configs/digits/vit-nano_diverse_digits.py
#   python tools/compare.py configs/digits/vit-nano_diverse_digits.py    # beside its plain twin
_base_ = ['./vit-nano_digits.py', '../_base_/diversity/all.py']

custom_hooks = [_base_.diversity]
