"""Data sets of mmdiverse."""
from .digits import Digits

__all__ = ['Digits']
