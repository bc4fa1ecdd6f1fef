# UPerNet on ADE20K with a DeiT-S, diversified at all levels while it is fine-tuned too; everything
# else, and the checkpoint it starts from, is that of
# deit-small_mln_upernet_8xb2-160k_ade20k-512x512.py.
#   bash tools/dist_train.sh \
#       configs/downstream/seg/deit-small_mln_upernet_diverse_8xb2-160k_ade20k-512x512.py 8
_base_ = ['./deit-small_mln_upernet_8xb2-160k_ade20k-512x512.py', '../../_base_/diversity/all.py']

custom_hooks = [*_base_.custom_hooks, _base_.diversity]
