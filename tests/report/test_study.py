import csv
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from scipy import stats

from mmdiverse.evaluation.study import COLUMNS
from mmdiverse.report import study
from mmdiverse.report.study import (
    Runs,
    differences_table,
    means_table,
    plot_accuracy,
    plot_similarity,
    plot_tradeoff,
    read_results,
)

ACCURACIES = {'plain': [70., 72., 71.], 'patch': [71., 74., 71.5]}


class SmallStudy:
    """Stands for a study of one model, two arms and three seeds."""

    name = 'small'

    def runs(self, work_dir: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(kind='nano', arm=arm, digest=f'{arm}-digest') for arm in ACCURACIES]


def row(arm: str, seed: int, measure: str, value: float, **where: int) -> dict[str, object]:
    return {**dict.fromkeys(COLUMNS, ''), **where, 'study': 'small', 'model': 'nano', 'arm': arm,
            'seed': seed, 'config': f'{arm}-dig', 'machine': 'a GPU', 'status': 'ended',
            'measure': measure, 'value': value}


@pytest.fixture
def rows() -> list[dict[str, object]]:
    rows = []
    for arm, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            rows += [row(arm, seed, 'accuracy', value, epoch=epoch)
                     for epoch, value in ((1, 50.), (2, accuracy))]
            for measure in ('token_cosine_absolute', 'head_cosine', 'neuron_cosine_mean'):
                rows += [row(arm, seed, measure, value, block=block)
                         for block, value in enumerate((.2, .4 + .1 * seed * (arm == 'patch')))]
            rows += [row(arm, seed, 'seconds_per_epoch', 12. + seed),
                     row(arm, seed, 'peak_memory_mib', 500.)]
    return rows


def write(rows: list[dict[str, object]], path: Path, columns: tuple[str, ...] = COLUMNS) -> Path:
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, columns, extrasaction='ignore')
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def runs(rows, tmp_path: Path) -> Runs:
    return Runs(read_results(write(rows, tmp_path / 'results.csv'), SmallStudy()))


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()]


def test_means_are_of_the_last_epoch_and_over_blocks(runs: Runs) -> None:
    assert cells(means_table(runs))[2] == [
        'nano', 'plain', '3', '71.00 ± 1.00', '0.300 ± 0.000', '0.300 ± 0.000', '0.300 ± 0.000',
        '13.0 ± 1.0', '500 ± 0']


def test_interval_is_that_of_students_t_over_pairs(runs: Runs) -> None:
    differences = [1., 2., .5]
    mean = sum(differences) / 3
    half = stats.t.ppf(.975, 2) * stats.sem(differences)
    line = cells(differences_table(runs))[2]
    assert line[:4] == ['nano', 'patch', '3',
                        f'{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})']


def test_only_seeds_of_both_twins_are_compared(rows, tmp_path: Path) -> None:
    rows = [each for each in rows
            if (each['arm'], each['seed']) not in (('plain', 1), ('patch', 2))]
    runs = Runs(read_results(write(rows, tmp_path / 'results.csv'), SmallStudy()))
    assert cells(differences_table(runs))[2][2:4] == ['1', '+1.00']
    assert cells(means_table(runs))[3][2:4] == ['2', '72.50 ± 2.12']


def test_equal_values_have_an_interval_of_no_width(rows, tmp_path: Path) -> None:
    runs = Runs(read_results(write([{**each, 'value': 1.} for each in rows],
                                   tmp_path / 'results.csv'), SmallStudy()))
    assert cells(differences_table(runs))[2][3] == '+0.00 (+0.00 to +0.00)'


def test_failed_runs_are_kept_apart(rows, tmp_path: Path) -> None:
    failed = dict(row('patch', 7, '', ''), status='out of memory')
    runs = Runs(read_results(write([*rows, failed], tmp_path / 'results.csv'), SmallStudy()))
    assert runs.failed == {('nano', 'patch', 7): 'out of memory'}
    assert runs.seeds('nano', 'patch') == [0, 1, 2]


@pytest.mark.parametrize('plot', [plot_accuracy, plot_similarity, plot_tradeoff])
def test_plots_are_drawn(runs: Runs, plot, tmp_path: Path) -> None:
    plot(runs, tmp_path / 'plot.png')
    assert cv2.imread(str(tmp_path / 'plot.png')).std() > 5


def test_no_two_arms_look_alike() -> None:
    arms = ['plain', *map(str, range(30))]
    styles = study._choose_styles(arms)
    assert list(styles) == arms
    assert len({(style.colour, style.line) for style in styles.values()}) == len(arms)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(arms)


@pytest.mark.parametrize('change, message', [
    (dict(study='other'), "holds results of the study 'other', not of 'small'"),
    (dict(config='changed'), "of the arm 'plain' of nano with another config"),
    (dict(arm='weight'), "of the arm 'weight' of nano which this study has not"),
])
def test_results_of_another_study_are_refused(rows, tmp_path: Path, change: dict,
                                              message: str) -> None:
    path = write([{**rows[0], **change}], tmp_path / 'results.csv')
    with pytest.raises(ValueError, match=message):
        read_results(path, SmallStudy())


def test_other_files_are_refused(rows, tmp_path: Path) -> None:
    path = write(rows, tmp_path / 'results.csv', columns=('arm', 'seed'))
    with pytest.raises(ValueError, match=r"must have the columns \['study', .* has \['arm', "):
        read_results(path, SmallStudy())


def test_command_writes_tables_and_plots_and_fills_pages(rows, tmp_path: Path, monkeypatch,
                                                         capsys) -> None:
    monkeypatch.setattr('mmdiverse.evaluation.study.load_study', lambda path: SmallStudy())
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- small-differences: begin -->\nold\n'
                    '<!-- small-differences: end -->\nafter\n')
    tool = Path(__file__).parents[2] / 'tools' / 'study_report.py'
    monkeypatch.setattr(sys, 'argv', [
        str(tool), 'study.yaml', '--results', str(write(rows, tmp_path / 'results.csv')), '--out',
        str(tmp_path / 'out'), '--insert', str(page)])
    runpy.run_path(str(tool), run_name='__main__')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'accuracy.png', 'similarity.png', 'study.md', 'tradeoff.png']
    assert '| nano  | patch' in page.read_text() and 'old' not in page.read_text()
    assert (tmp_path / 'out' / 'study.md').read_text().strip() in capsys.readouterr().out


def test_accuracies_are_drawn_at_their_epochs_and_different_ends_are_said(
        rows, tmp_path: Path, monkeypatch) -> None:
    # Validated after the third and, but for one run, the seventh epoch.
    rows = [{**each, 'epoch': each['epoch'] and {1: 3, 2: 7}[each['epoch']]} for each in rows
            if (each['arm'], each['seed'], each['epoch']) != ('patch', 1, 2)]
    runs = Runs(read_results(write(rows, tmp_path / 'results.csv'), SmallStudy()))
    figures = []
    monkeypatch.setattr(study, '_save', lambda figure, *others: figures.append(figure))
    plot_accuracy(runs, tmp_path / 'plot.png')
    lines = {line.get_label(): line.get_xdata().tolist() for line in figures[0].axes[0].lines}
    assert lines['plain'] == [3, 7] and lines['patch'] == [3]
    sentence, = runs.describe_ends()
    assert sentence == figures[0].get_suptitle() == (
        'nano: Runs ended after different epochs: plain after 7 (seeds 0, 1, 2); '
        'patch after 3 (seed 1), 7 (seeds 0, 2).')
    assert cells(means_table(runs))[3][3] == f'{(71 + 50 + 71.5) / 3:.2f} ± 12.27'


@pytest.mark.parametrize('change', [
    dict(seed='x'), dict(seed=''), dict(value='x'), dict(value=''), dict(epoch='x'),
    dict(measure='')])
def test_lines_that_are_no_results_are_named(rows, tmp_path: Path, change: dict) -> None:
    path = write([rows[0], {**rows[1], **change}], tmp_path / 'results.csv')
    with pytest.raises(ValueError, match=r'line 3 of .*results\.csv is cut short, or no result'):
        read_results(path, SmallStudy())


def test_a_file_that_is_cut_short_is_refused(rows, tmp_path: Path) -> None:
    path = write(rows, tmp_path / 'results.csv')
    text = path.read_text()
    path.write_text(text[:-20])
    with pytest.raises(ValueError, match='is cut short'):
        read_results(path, SmallStudy())
    lines = text.splitlines(keepends=True)
    path.write_text(''.join(lines[:-1]))
    with pytest.raises(ValueError, match=r"nano, patch, seed 2 lack \['peak_memory_mib'\]"):
        Runs(read_results(path, SmallStudy()))


@pytest.mark.parametrize('content', [b'\x89PNG\r\n\x1a\n\x00\x00', b'\x00,\x00', b''])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'results.csv'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'results\.csv must '):
        read_results(path, SmallStudy())


@pytest.mark.parametrize('words, message', [
    ([], 'FileNotFoundError: no results at .*results.csv: call tools/study.py before, or say by '
         '--results where they are'),
    (['--results', 'results.csv', '--insert', 'page.md'],
     '--insert page.md: it has no mark for a table, such as `<!-- small-means: begin -->`'),
])
def test_what_the_command_lacks_is_named(words: list[str], message: str, rows, tmp_path: Path,
                                         monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mmdiverse.evaluation.study.load_study', lambda path: SmallStudy())
    write(rows, tmp_path / 'results.csv')
    (tmp_path / 'page.md').write_text('no mark')
    tool = Path(__file__).parents[2] / 'tools' / 'study_report.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), 'study.yaml', *words])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(tool), run_name='__main__')
