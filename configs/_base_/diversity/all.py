# The fragments patch.py, attention.py and weight.py together.
diversity = dict(
    type='mmdiverse.DiversityHook',
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=['embed', -1], weight=0.5),
        dict(type='CosineLoss', on='attention', layers=0, weight=0.1),
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', weight=1e-2),
    ])
