# Attention level: the heads of every block apart from one another. The authors treat the first
# block alone; on the digits, the heads of later blocks then grew more alike.
diversity = dict(
    type='mmdiverse.DiversityHook',
    gradient_interval=1000,
    terms=[dict(type='CosineLoss', on='attention', layers='all', weight=0.1)])
