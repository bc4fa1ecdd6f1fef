"""Diversity terms for new-style configs; each module defines ``diversity``."""
