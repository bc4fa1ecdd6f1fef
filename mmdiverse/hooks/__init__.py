"""MMEngine hooks of mmdiverse."""
from .checkpoint_hook import SafeCheckpointHook
from .diversity_hook import DiversityHook
from .epoch_seed_hook import EpochSeedHook
from .pretrained_check_hook import PretrainedCheckHook
from .redundancy_hook import RedundancyHook

__all__ = ['DiversityHook', 'EpochSeedHook', 'PretrainedCheckHook', 'RedundancyHook',
           'SafeCheckpointHook']
