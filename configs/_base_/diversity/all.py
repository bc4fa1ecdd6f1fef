# The fragments patch.py, attention.py and weight.py together.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=['embed', -1], weight=0.5),
        dict(type='CosineLoss', on='attention', layers='all', weight=0.1),
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='power',
             weight=2e-2),
    ])
