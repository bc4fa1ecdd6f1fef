"""Data sets of mmdiverse."""
from .batch_transforms import BatchRandomCrop, BatchRandomFlip
from .digits import Digits
from .in_memory import InMemoryDataset

__all__ = ['BatchRandomCrop', 'BatchRandomFlip', 'Digits', 'InMemoryDataset']
