# The weight-level term of official.py alone.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='official',
             reduction='sum', weight=5e-4),
    ])
