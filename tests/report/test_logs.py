import json
import math
from pathlib import Path

from mmdiverse.report.logs import load_even_log

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
