"""MMEngine hooks of mmdiverse."""
from .checkpoint_hook import SafeCheckpointHook
from .diversity_hook import DiversityHook
from .epoch_seed_hook import EpochSeedHook
from .redundancy_hook import RedundancyHook

__all__ = ['DiversityHook', 'EpochSeedHook', 'RedundancyHook', 'SafeCheckpointHook']
