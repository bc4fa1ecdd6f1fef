# The attention-level term of official.py alone.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='attention', layers=0, form='signed', diagonal=True,
             weight=1e-4),
    ])
