"""Configs in MMEngine's new style, pure Python; those in ``configs/`` are in the older one.

Inherit them by ``with read_base(): from mmdiverse.configs.deit... import *``.
"""
