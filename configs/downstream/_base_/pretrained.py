# What all configs of this folder share. Importing mmdiverse mends what today's Python packages
# broke in MMEngine and MMPretrain, and lets checkpoints be named `ema:` and `model:`. The hook ends
# a run before its first step if the checkpoint left a weight of the backbone empty.
custom_imports = dict(imports=['mmdiverse'], allow_failed_imports=False)
custom_hooks = [dict(type='mmdiverse.PretrainedCheckHook')]
