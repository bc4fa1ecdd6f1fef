"""MMEngine hooks of mmdiverse."""
from .diversity_hook import DiversityHook

__all__ = ['DiversityHook']
