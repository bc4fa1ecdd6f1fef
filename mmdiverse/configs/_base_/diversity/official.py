"""The three levels exactly as in the authors' code, as ``configs/_base_/diversity/official.py``."""
from mmdiverse.hooks import DiversityHook

diversity = dict(
    type=DiversityHook,
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, form='signed', diagonal=True, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=['embed', -1], weight=0.5),
        dict(type='CosineLoss', on='attention', layers=0, form='signed', diagonal=True,
             weight=1e-4),
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='official',
             reduction='sum', weight=5e-4),
    ])
