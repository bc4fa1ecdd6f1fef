"""Diversity losses: one formula per class, one idea per file."""
from .base import DiversityLoss
from .conditional_orthogonality import (
    ConditionalOrthogonalityLoss,
    eigenvalue_spread,
    power_step_eigenvalue_spread,
)
from .contrastive import ContrastiveLoss, contrastive
from .cosine import CosineLoss, CrossCosineLoss, mean_cosine, mean_cross_cosine
from .disagreement import DisagreementLoss, mean_inner_product
from .extreme_eigenvalues import ExtremeEigenvalues, exact_extremes, power_iteration
from .gradient_diversity import GradientDiversityLoss, gradient_coherence, gradient_diversity
from .hyperspherical import (
    GramDeterminantLoss,
    HypersphericalEnergyLoss,
    HypersphericalSeparationLoss,
    hyperspherical_energy,
    negative_log_determinant,
    separation,
)
from .rank_collapse import RankCollapseLoss, rank_collapse, relative_residual
from .soft_orthogonality import SoftOrthogonalityLoss, soft_orthogonality
from .srip import SRIPLoss

__all__ = [
    'ConditionalOrthogonalityLoss', 'ContrastiveLoss', 'CosineLoss', 'CrossCosineLoss',
    'DisagreementLoss', 'DiversityLoss', 'ExtremeEigenvalues', 'GradientDiversityLoss',
    'GramDeterminantLoss', 'HypersphericalEnergyLoss', 'HypersphericalSeparationLoss',
    'RankCollapseLoss', 'SRIPLoss', 'SoftOrthogonalityLoss', 'contrastive', 'eigenvalue_spread',
    'exact_extremes', 'gradient_coherence', 'gradient_diversity', 'hyperspherical_energy',
    'mean_cosine', 'mean_cross_cosine', 'mean_inner_product', 'negative_log_determinant',
    'power_iteration', 'power_step_eigenvalue_spread', 'rank_collapse', 'relative_residual',
    'separation', 'soft_orthogonality'
]
