# The three levels exactly as in the authors' code (Chen et al., CVPR 2022, arXiv 2203.06345), with
# their coefficients for DeiT-S of 12 and 24 layers. Their recipe also mixes patches: see
# configs/deit/deit-small_diverse_8xb128_in1k.py, or `tools/train.py --diversity official --mixing`.
# Their forms have quirks that the docstrings of the losses explain; the fragments beside this one
# use the sound forms.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, form='signed', diagonal=True, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=['embed', -1], weight=0.5),
        dict(type='CosineLoss', on='attention', layers=0, form='signed', diagonal=True,
             weight=1e-4),
        dict(type='ConditionalOrthogonalityLoss', on='weight', layers='all', method='official',
             reduction='sum', weight=5e-4),
    ])
