"""Small backbones of every family that a tap knows, in a file named after that of the tap.

A tap that has no backbone here fails the contract (:mod:`tests.taps.test_contract`).
"""
from importlib import import_module
from pkgutil import iter_modules

from .family import Family, attached, everything

FAMILIES: list[Family] = [
    family for module in iter_modules(__path__) if module.name != 'family'
    for family in import_module(f'{__name__}.{module.name}').FAMILIES]

__all__ = ['FAMILIES', 'Family', 'attached', 'everything']
