"""Diversity losses: one formula per class, one idea per file."""
from .base import DiversityLoss
from .contrastive import ContrastiveLoss, contrastive
from .cosine import CosineLoss, CrossCosineLoss, mean_cosine, mean_cross_cosine
from .orthogonality import (
    ConditionalOrthogonalityLoss,
    eigenvalue_spread,
    power_step_eigenvalue_spread,
)

__all__ = [
    'ConditionalOrthogonalityLoss', 'ContrastiveLoss', 'CosineLoss', 'CrossCosineLoss',
    'DiversityLoss', 'contrastive', 'eigenvalue_spread', 'mean_cosine', 'mean_cross_cosine',
    'power_step_eigenvalue_spread'
]
