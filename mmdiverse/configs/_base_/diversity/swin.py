"""The three levels for a SwinTransformer, as ``configs/_base_/diversity/swin.py``."""
from mmdiverse.hooks import DiversityHook

diversity = dict(
    type=DiversityHook,
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=[-2, -1], weight=0.5),
        dict(type='CosineLoss', on='attention', layers='all', weight=0.1),
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='power',
             weight=2e-2),
    ])
