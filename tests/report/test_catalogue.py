"""The tables of all registered losses and of all measures."""
import json
import subprocess
import sys
from pathlib import Path

from mmdiverse.losses import DiversityLoss
from mmdiverse.measures import MEASURES
from mmdiverse.registry import LOSSES
from mmdiverse.report.catalogue import catalogue_table, measures_table
from mmdiverse.report.markdown import insert_table

ROOT = Path(__file__).parents[2]


def test_every_registered_loss_says_all_the_table_needs() -> None:
    LOSSES.import_from_location()
    for loss in LOSSES.module_dict.values():
        assert issubclass(loss, DiversityLoss) and loss.formula and loss.cost and loss.levels


def test_a_row_has_name_levels_formula_cost_and_overhead() -> None:
    table = catalogue_table({'SRIPLoss on weight': dict(median_ratio=1.102),
                             'SRIPLoss on weight, power': dict(median_ratio=0.998)})
    row = next(row for row in table.splitlines() if row.startswith('| `SRIPLoss` |'))
    assert row == ('| `SRIPLoss` | patch, attention, weight | max \\|λ(G) − 1\\| of directions | '
                   'M D min(M, D); power M D | weight 10.2 %; weight power -0.2 % |')


def test_a_new_loss_stands_in_the_table() -> None:
    class NewLoss(DiversityLoss):
        levels, formula, cost = ('weight', ), 'nothing', '1'

    LOSSES.register_module(module=NewLoss)
    try:
        assert '| `NewLoss` | weight | nothing | 1 | not measured |' in catalogue_table({})
    finally:
        LOSSES.module_dict.pop('NewLoss')


def test_command_line(tmp_path: Path) -> None:
    page, results = tmp_path / 'page.md', tmp_path / 'results.json'
    page.write_text('<!-- catalogue: begin -->\n<!-- catalogue: end -->\n')
    results.write_text(json.dumps({'results': {}}))
    command = [sys.executable, str(ROOT / 'tools' / 'catalogue.py'), str(page), str(results)]
    subprocess.run(command, check=True)
    assert '| `CosineLoss` |' in page.read_text(encoding='utf-8')
    results.unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and 'FileNotFoundError' in done.stderr


def test_the_page_holds_the_table_of_measures() -> None:
    page = (ROOT / 'docs' / 'audit.md').read_text(encoding='utf-8')
    assert insert_table(page, 'measures', measures_table()) == page
    assert all(f'| `{name}` |' in page for name in MEASURES)


def test_command_line_for_measures(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    page.write_text('<!-- measures: begin -->\n<!-- measures: end -->\n')
    subprocess.run([sys.executable, str(ROOT / 'tools' / 'catalogue.py'), str(page)], check=True)
    assert '| `stable_rank` |' in page.read_text(encoding='utf-8')
