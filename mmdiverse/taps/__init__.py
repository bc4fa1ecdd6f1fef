"""Taps: where a backbone family keeps its tokens, queries, keys and weights.

Every file in this folder is imported, so that a family needs no other place.
"""
from importlib import import_module
from pkgutil import iter_modules

from .base import Tap, TapPoints, build_tap

for _module in iter_modules(__path__):
    import_module(f'{__name__}.{_module.name}')

__all__ = ['Tap', 'TapPoints', 'build_tap']
