"""Table of the modes of training: where gradients are right, refused, or not tested."""
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from .markdown import markdown_table

COLUMNS = {f'{family} {level}': f'{title} {level}' for family, title in
           (('deit', 'DeiT'), ('swin', 'Swin')) for level in ('patch', 'attention', 'weight')}
Verdicts = dict[str, dict[str, str]]


def read_verdicts(report: Path) -> Verdicts:
    """What the tests of modes found.

    Args:
        report (Path): Made by ``python -m pytest tests/robustness --junitxml=REPORT``.

    Returns:
        dict[str, dict[str, str]]: By mode, then by model and level: ``'right to <error>'``,
        ``'refused'`` or ``'not tested here (needs ...)'``.

    Raises:
        ValueError: If the report has none, or a test failed.
    """
    verdicts: Verdicts = {}
    for case in ElementTree.parse(report).iter('testcase'):
        found = {item.get('name'): item.get('value') for item in case.iter('property')}
        if 'mode' not in found:
            continue
        mode = found.pop('mode')
        if case.find('failure') is not None or case.find('error') is not None:
            raise ValueError(f'{report}: the test of {mode!r} failed')
        verdicts.setdefault(mode, {}).update(found)
    if not verdicts:
        raise ValueError(f'{report} holds no test of a mode; make it by `python -m pytest '
                         'tests/robustness --junitxml=REPORT`')
    return verdicts


def modes_table(stacks: Mapping[str, Verdicts]) -> str:
    """Markdown table of every mode, with the largest error that any host stack gave.

    Args:
        stacks (Mapping[str, dict]): Of each host stack, what :func:`read_verdicts` returned.

    Returns:
        str: Where stacks differ, a cell names them.
    """
    modes = list(dict.fromkeys(mode for verdicts in stacks.values() for mode in verdicts))
    rows = []
    for mode in modes:
        cells = []
        errors = []
        for column in COLUMNS:
            found = {stack: verdicts.get(mode, {}).get(column, '')
                     for stack, verdicts in stacks.items()}
            errors += [float(error) for verdict in found.values()
                       for error in re.findall(r'right to (.*)', verdict)]
            short = {stack: re.sub(r' to .*', '', verdict) for stack, verdict in found.items()}
            if len({*short.values()}) == 1:
                cells.append(next(iter(short.values())) or '–')
            else:
                cells.append('; '.join(f'{stack}: {verdict or "–"}'
                                       for stack, verdict in short.items()))
        rows.append((mode, *cells, f'{max(errors):.0e}' if errors else '–'))
    return markdown_table(('mode', *COLUMNS.values(), 'largest error'), rows)
