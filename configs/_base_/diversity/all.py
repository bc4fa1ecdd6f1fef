# The terms of patch.py, attention.py and weight.py together. Attention terms make rows of query and
# key matrices alike, and weight terms make heads alike: with the coefficients here, which differ
# from those of each level alone, all three similarities fall (docs/study.md).
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=['embed', -1], weight=0.5),
        dict(type='CosineLoss', on='attention', layers='all', weight=0.02),
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='power',
             weight=0.04),
    ])
