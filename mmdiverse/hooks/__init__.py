"""MMEngine hooks of mmdiverse."""
from .checkpoint_hook import SafeCheckpointHook
from .diversity_hook import DiversityHook
from .epoch_seed_hook import EpochSeedHook

__all__ = ['DiversityHook', 'EpochSeedHook', 'SafeCheckpointHook']
