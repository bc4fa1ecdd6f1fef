"""Table of all registered losses."""
from collections.abc import Mapping
from typing import Any

from ..records import LEVELS
from ..registry import LOSSES

BEGIN, END = '<!-- catalogue: begin -->', '<!-- catalogue: end -->'


def catalogue_table(overhead: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown table of every registered loss, in alphabetical order.

    Args:
        overhead (Mapping[str, Mapping]): Results of ``tools/benchmarks/overhead.py --terms``, by
            arm: ``'<loss> on <level>'``, maybe followed by ``', <method>'``.

    Returns:
        str: Name, levels, formula, cost class and measured overhead of each.
    """
    LOSSES.import_from_location()
    rows = [('loss', 'levels', 'value (defaults)', 'cost of an item', 'added to a plain step'),
            ('---', '---', '---', '---', '---')]
    for name, loss in sorted(LOSSES.module_dict.items()):
        levels = ', '.join(level for level in LEVELS if level in loss.levels)
        rows.append((f'`{name}`', levels, _escape(loss.formula), _escape(loss.cost),
                     _overhead(name, overhead) or 'not measured'))
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def _escape(text: str) -> str:
    return text.replace('|', '\\|')


def _overhead(name: str, overhead: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for arm, result in overhead.items():
        loss, _, place = arm.partition(' on ')
        if loss == name:
            parts.append(f'{place.replace(",", "")} {100 * (result["median_ratio"] - 1):.1f} %')
    return '; '.join(parts)


def insert_table(page: str, table: str) -> str:
    """Replace what stands between the two marks of a page.

    Args:
        page (str): With both marks.
        table (str): What to put there.

    Returns:
        str: The new page.

    Raises:
        ValueError: If the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f'the page must hold {BEGIN} and {END}')
    return f'{before}{BEGIN}\n{table}\n{END}{after}'
