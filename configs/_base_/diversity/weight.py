# Weight level: query, key and value matrices of all blocks with rows orthogonal and equally long.
# Power iteration follows the extreme eigenvalues from step to step at next to no cost;
# `method='exact'` decomposes every matrix, and takes about half a training step of a DeiT-S on a
# CPU.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='power',
             weight=2e-2),
    ])
