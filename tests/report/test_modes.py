"""The table of the modes of training."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmdiverse.report.markdown import insert_table
from mmdiverse.report.modes import COLUMNS, modes_table, read_verdicts
from tests.robustness.modes import LEVELS, LORA, MODES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'robustness.md').read_text(encoding='utf-8')


def report(path: Path, mode: str, failed: bool = False, **found: str) -> Path:
    """A JUnit report with one test of a mode."""
    properties = ''.join(f'<property name="{name.replace("_", " ")}" value="{value}"/>'
                         for name, value in found.items())
    path.write_text(f'<testsuites><testsuite><testcase name="other"/><testcase name="test">'
                    f'<properties><property name="mode" value="{mode}"/>{properties}</properties>'
                    f'{"<failure/>" if failed else ""}</testcase></testsuite></testsuites>')
    return path


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip('| \n').split('|')]


def test_a_row_has_the_verdicts_and_the_largest_error(tmp_path: Path) -> None:
    stacks = {name: read_verdicts(report(tmp_path / name, 'DDP', **found)) for name, found in {
        'one': dict(deit_patch='right to 2e-07', deit_weight='refused'),
        'two': dict(deit_patch='right to 3e-06', deit_weight='right to 1e-08')}.items()}
    row = modes_table(stacks).splitlines()[2]
    assert cells(row) == ['DDP', 'right', '–', 'one: refused; two: right', '–', '–', '–', '3e-06']


def test_a_report_with_a_failure_makes_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the test of 'DDP' failed"):
        read_verdicts(report(tmp_path / 'report', 'DDP', failed=True))


def test_a_report_without_modes_makes_no_table(tmp_path: Path) -> None:
    path = tmp_path / 'report'
    path.write_text('<testsuites/>')
    with pytest.raises(ValueError, match='holds no test of a mode'):
        read_verdicts(path)


def test_command_line(tmp_path: Path) -> None:
    page, results = tmp_path / 'page.md', tmp_path / 'modes.json'
    page.write_text('<!-- modes: begin -->\n<!-- modes: end -->\n')
    command = [sys.executable, str(ROOT / 'tools' / 'modes.py'), str(page),
               str(report(tmp_path / 'one.xml', 'DDP', swin_patch='refused')), '--out',
               str(results)]
    subprocess.run(command, check=True)
    assert '| DDP | – | – | – | refused |' in page.read_text(encoding='utf-8')
    assert '"swin patch": "refused"' in results.read_text(encoding='utf-8')
    (tmp_path / 'one.xml').write_text('nothing')
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith('ParseError')


def test_the_page_shows_what_the_tests_ask_of_every_mode() -> None:
    rows = {cells(row)[0]: dict(zip(COLUMNS, cells(row)[1:])) for row in
            re.search(r'<!-- modes: begin -->\n(.*)<!-- modes: end -->', PAGE, re.S)[1]
            .splitlines()[2:]}
    assert [*rows] == [mode.name for mode in MODES] + [LORA.name]
    for mode in [*MODES, LORA]:
        for family in ('deit', 'swin'):
            for level in LEVELS:
                cell = rows[mode.name][f'{family} {level}']
                untested = f'not tested here (needs {mode.needs})'
                expected = '–' if family not in mode.families else \
                    'refused' if level in mode.refused else 'right'
                assert cell == expected or mode.needs and cell == untested


def test_the_page_has_the_marks() -> None:
    assert insert_table(PAGE, 'modes', '') != PAGE
