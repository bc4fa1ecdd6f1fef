"""Necks, between a backbone and a head of MMPretrain."""
from .class_token import ClassTokenNeck

__all__ = ['ClassTokenNeck']
