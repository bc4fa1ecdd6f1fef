# Weight level: query, key and value matrices of all blocks with rows orthogonal and equally long.
diversity = dict(
    type='mmdiverse.DiversityHook',
    terms=[dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', weight=1e-2)])
