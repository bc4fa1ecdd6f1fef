# Patch level: patches of the last block apart from one another, and near their own input.
# ViT and DeiT; the stages of a Swin differ in width, so give its terms `layers` of one stage.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[
        dict(type='CosineLoss', on='patch', layers=-1, weight=0.5),
        dict(type='ContrastiveLoss', on='patch', layers=['embed', -1], weight=0.5),
    ])
