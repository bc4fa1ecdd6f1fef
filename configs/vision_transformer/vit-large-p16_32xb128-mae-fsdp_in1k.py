# ViT-L/16 on ImageNet-1k as vit-large-p16_32xb128-mae_in1k.py, with parameters whole and gradients
# and optimizer states sharded by FSDP, in bf16, and with activation checkpointing, for GPUs where
# DDP's memory does not suffice: the plain twin of vit-large-p16_diverse_32xb128-mae-fsdp_in1k.py.
#   GPUS=32 bash tools/slurm_train.sh PARTITION JOB \
#       configs/vision_transformer/vit-large-p16_32xb128-mae-fsdp_in1k.py DIR
# Unlike there, no moving average is kept: EMAHook copies the model, which FSDP does not allow.
# Checkpoints are whole and load anywhere; test them with the config without FSDP.
_base_ = ['./vit-large-p16_32xb128-mae_in1k.py']

# Before the strategy is built, so that MMPretrain's own train.py can resume as well.
custom_imports = dict(imports=['mmdiverse'])
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    state_dict_cfg='full',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        # Terms at weight level need weights that stay whole after a block's forward pass.
        sharding_strategy='SHARD_GRAD_OP',
        # A unit for each block, which has 12.6 M parameters; no module inside has so many.
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
            min_num_params=10_000_000)),
    # By torch's wrapper, which is not re-entrant. As a function, this is `isinstance(module, ...)`.
    activation_checkpointing=dict(
        check_fn='mmpretrain.models.backbones.vision_transformer.TransformerEncoderLayer.'
                 '__instancecheck__'))
optim_wrapper = dict(
    # Not FSDP's own mixed precision, under which terms at weight level would see weights in bf16.
    type='mmdiverse.AutocastOptimWrapper', dtype='bfloat16',
    # FSDP keeps its shards flat: by this option no weight at all would decay. Those that should
    # not, norms, biases, class token and positions, have options of their own.
    paramwise_cfg=dict(flat_decay_mult=None))
custom_hooks = []
