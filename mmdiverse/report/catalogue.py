"""Tables of all registered losses and of all measures of redundancy."""
from collections.abc import Mapping
from typing import Any

from ..measures import MEASURES
from ..records import LEVELS
from ..registry import LOSSES
from .markdown import markdown_table


def catalogue_table(overhead: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown table of every registered loss, in alphabetical order.

    Args:
        overhead (Mapping[str, Mapping]): Results of ``tools/benchmarks/overhead.py --terms``, by
            arm: ``'<loss> on <level>'``, maybe followed by ``', <method>'``.

    Returns:
        str: Name, levels, formula, cost class and measured overhead of each.
    """
    LOSSES.import_from_location()
    rows = []
    for name, loss in sorted(LOSSES.module_dict.items()):
        levels = ', '.join(level for level in LEVELS if level in loss.levels)
        rows.append((f'`{name}`', levels, loss.formula, loss.cost,
                     _overhead(name, overhead) or 'not measured'))
    return markdown_table(
        ('loss', 'levels', 'value (defaults)', 'cost of an item', 'added to a plain step'), rows)


def measures_table() -> str:
    """Markdown table of every measure of redundancy, level by level.

    Returns:
        str: Name, level, what a value belongs to, definition, range, direction and source of each.
    """
    return markdown_table(
        ('measure', 'level', 'one for each', 'definition', 'range', 'more diverse', 'source'),
        [(f'`{measure.name}`', measure.level, measure.axis, measure.formula, measure.range,
          measure.diverse, measure.source) for measure in MEASURES.values()])


def _overhead(name: str, overhead: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for arm, result in overhead.items():
        loss, _, place = arm.partition(' on ')
        if loss == name:
            parts.append(f'{place.replace(",", "")} {100 * (result["median_ratio"] - 1):.1f} %')
    return '; '.join(parts)
