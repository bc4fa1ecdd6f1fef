"""Measurements: parity with the authors' code, redundancy, comparisons, audits, costs."""
from .redundancy_metric import RedundancyMetric

__all__ = ['RedundancyMetric']
