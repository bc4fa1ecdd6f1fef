import json
import math
import sys
from pathlib import Path

import pytest

from mmdiverse.report.logs import load_even_log, load_log_for_script

LINES = [
    {'lr': 1., 'step': 2, 'loss': 3., 'term': 0.5},
    {'redundancy/x': 0.1, 'step': 2},
    {'accuracy/top1': 10., 'step': 1},
    {'lr': 1., 'step': 4, 'loss': 2.},
    {'redundancy/x': 0.2, 'step': 4},
    {'accuracy/top1': 20., 'step': 2},
]


def load(tmp_path: Path) -> dict[str, list[dict]]:
    path = tmp_path / 'scalars.json'
    path.write_text('\n'.join(map(json.dumps, LINES)))
    return load_even_log(str(path))


def test_lines_are_those_of_the_log_and_absent_values_are_not_drawn(tmp_path: Path) -> None:
    log = load(tmp_path)
    numbers = [{key: value for key, value in line.items() if not math.isnan(value)}
               for lines in log.values() for line in lines]
    assert len(numbers) == len(LINES) and all(line in numbers for line in LINES)


def test_every_line_has_every_key(tmp_path: Path) -> None:
    for mode, keys in (('train', {'lr', 'step', 'loss', 'term'}),
                       ('val', {'redundancy/x', 'accuracy/top1', 'step'})):
        lines = load(tmp_path)[mode]
        assert [line.keys() for line in lines] == [keys] * 2 * (1 + (mode == 'val'))


def test_lines_keep_their_order_and_those_of_a_kind_stand_together(tmp_path: Path) -> None:
    log = load(tmp_path)
    assert [line['loss'] for line in log['train']] == [3., 2.]
    values = [(line['accuracy/top1'], line['redundancy/x']) for line in log['val']]
    assert [value for pair in values for value in pair if not math.isnan(value)] == [10., 20., 0.1,
                                                                                     0.2]


def test_a_log_without_validation_is_empty_there(tmp_path: Path) -> None:
    path = tmp_path / 'scalars.json'
    path.write_text(json.dumps(LINES[0]))
    assert load_even_log(str(path)) == {'train': [LINES[0]], 'val': []}


def load_for(command: str, steps: list[tuple[int, int]], tmp_path: Path, monkeypatch,
             *words: str) -> list[dict]:
    """The training lines that the script gets, from their iterations and epochs."""
    path = tmp_path / 'scalars.json'
    path.write_text('\n'.join(json.dumps({'lr': 1., 'step': step, 'epoch': epoch})
                              for step, epoch in steps))
    monkeypatch.setattr(sys, 'argv', ['analyze_logs.py', command, str(path), *words])
    return load_log_for_script(str(path))['train']


@pytest.mark.parametrize('steps', [
    [(2, 1), (4, 1), (6, 2), (8, 2), (10, 3)],  # interrupted in the middle of the third
    [(6, 2), (8, 2), (10, 3), (12, 3), (14, 4)],  # resumed, and interrupted again
    [(4, 1), (8, 2), (12, 3)]])
def test_an_epoch_is_as_long_as_the_log_says(steps: list[tuple[int, int]], tmp_path: Path,
                                             monkeypatch) -> None:
    lines = load_for('plot_curve', steps, tmp_path, monkeypatch)
    # By which the script divides.
    assert lines[-1]['step'] / lines[-1]['epoch'] == 4
    assert [line['step'] for line in lines] == [step for step, _ in steps]


def test_runs_that_count_iterations_have_no_epochs(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / 'scalars.json'
    path.write_text(json.dumps({'lr': 1., 'step': 2}))
    monkeypatch.setattr(sys, 'argv', ['analyze_logs.py', 'plot_curve', str(path)])
    assert load_log_for_script(str(path))['train'] == [{'lr': 1., 'step': 2}]


def test_epochs_that_the_script_counts_anew_are_explained(tmp_path: Path, monkeypatch, capsys
                                                          ) -> None:
    steps = [(10, 3), (12, 3), (14, 4), (16, 4)]
    lines = load_for('cal_train_time', steps, tmp_path, monkeypatch)
    assert [line['epoch'] for line in lines] == [3, 3, 4, 4]
    assert 'begins with epoch 3, which is called epoch 1 below' in capsys.readouterr().out
    load_for('cal_train_time', [(2, 1), (4, 1), (6, 2), (8, 2)], tmp_path, monkeypatch)
    assert capsys.readouterr().out == ''


def test_epochs_without_a_time_are_explained(tmp_path: Path, monkeypatch, capsys) -> None:
    load_for('cal_train_time', [(4, 1), (8, 2)], tmp_path, monkeypatch)
    assert 'epochs of one line' in capsys.readouterr().out
    load_for('cal_train_time', [(4, 1), (8, 2)], tmp_path, monkeypatch, '--include-outliers')
    assert capsys.readouterr().out == ''
