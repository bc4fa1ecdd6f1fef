# Attention level: the heads of the first block apart from one another.
diversity = dict(
    type='mmdiverse.DiversityHook',
    terms=[dict(type='CosineLoss', on='attention', layers=0, weight=0.1)])
