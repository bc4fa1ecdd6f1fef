# The patch-level terms of official.py alone.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, form='signed', diagonal=True, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=['embed', -1], weight=0.5),
    ])
