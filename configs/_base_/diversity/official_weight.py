# The weight-level term of official.py alone.
diversity = dict(
    type='mmdiverse.DiversityHook',
    terms=[
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='official',
             reduction='sum', weight=5e-4),
    ])
