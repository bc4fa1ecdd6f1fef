# UPerNet on ADE20K with a Swin-T, diversified at all levels while it is fine-tuned too; everything
# else, and the checkpoint it starts from, is that of swin-tiny_upernet_8xb2-160k_ade20k-512x512.py.
#   bash tools/dist_train.sh \
#       configs/downstream/seg/swin-tiny_upernet_diverse_8xb2-160k_ade20k-512x512.py 8
_base_ = ['./swin-tiny_upernet_8xb2-160k_ade20k-512x512.py', '../../_base_/diversity/swin.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
