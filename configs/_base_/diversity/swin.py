# All three levels for a SwinTransformer. Its stages differ in the number and width of tokens, so
# the contrast is between the last two blocks, which lie in one stage.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=[-2, -1], weight=0.5),
        dict(type='CosineLoss', on='attention', layers='all', weight=0.1),
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='power',
             weight=2e-2),
    ])
