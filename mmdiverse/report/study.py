"""Tables and plots of a study."""
import csv
import itertools
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import ttest_rel

from ..evaluation.study import COLUMNS, ENDED, PLAIN, Study
from .comparison import MEASURES, describe_ends, draw_curves, spread
from .markdown import aligned_table

Row = dict[str, Any]
#: Of a run, by measure: accuracies by epoch, values by block, or one value, under 0.
Values = dict[str, dict[int, float]]
#: What is compared, and digits after the point.
COMPARED = {'accuracy': ('accuracy (%)', 2),
            **{measure: (label, 3) for measure, label in MEASURES.items()}}
COSTS = {'seconds_per_epoch': ('s / epoch', 1), 'peak_memory_mib': ('memory (MiB)', 0)}


def read_results(path: str | Path, study: Study) -> list[Row]:
    """Read the results of a study.

    Args:
        path (str | Path): A file of :func:`~mmdiverse.evaluation.study.write_results`.
        study (Study): What they must be of.

    Raises:
        ValueError: If it is no such file, or holds results of another study or of other configs.
        OSError: If it cannot be read.
    """
    try:
        with open(path, encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file)
            columns, rows = tuple(reader.fieldnames or ()), list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f'{path} must be the results of a study as CSV, but cannot be read: '
                         f'{error}') from None
    if columns != COLUMNS:
        raise ValueError(f'{path} must have the columns {list(COLUMNS)}, but has {list(columns)}')
    configs = {(run.kind, run.arm): run.digest for run in study.runs('')}
    for line, row in enumerate(rows, start=2):
        if not _is_whole(row):
            raise ValueError(f'line {line} of {path} is cut short, or no result: '
                             f'{[*row.values()]}; call tools/study.py again, which writes it anew')
        if row['study'] != study.name:
            raise ValueError(f'{path} holds results of the study {row["study"]!r}, not of '
                             f'{study.name!r}')
        digest = configs.get((row['model'], row['arm']))
        if digest is None or not digest.startswith(row['config']):
            raise ValueError(
                f'{path} holds results of the arm {row["arm"]!r} of {row["model"]} '
                f'{"with another config" if digest else "which this study has not"}; measure it '
                'again by tools/study.py, with another --work-dir')
    return rows


def _is_whole(row: Row) -> bool:
    """Whether a row has all columns, and numbers where there must be numbers."""
    if None in row or None in row.values():  # of cells that are too many, or too few
        return False
    try:
        int(row['seed'])
        int(row['epoch'] or row['block'] or 0)
        float(row['value'] or 0)
    except ValueError:
        return False
    return row['status'] != ENDED or '' not in (row['measure'], row['value'])


class Runs:
    """The runs of a study that have ended.

    Args:
        rows (Sequence[dict]): From :func:`read_results`.

    Attributes:
        values (dict): Of each model, arm and seed, by measure, the values by epoch or block.
        failed (dict): The status of each that failed.

    Raises:
        ValueError: If a run lacks a measure.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.values: dict[tuple[str, str, int], Values] = {}
        self.failed: dict[tuple[str, str, int], str] = {}
        for row in rows:
            key = row['model'], row['arm'], int(row['seed'])
            if row['status'] == ENDED:
                place = int(row['epoch'] or row['block'] or 0)
                self.values.setdefault(key, defaultdict(dict))[row['measure']][place] = \
                    float(row['value'])
            else:
                self.failed[key] = row['status']
        for (model, arm, seed), values in self.values.items():
            missing = {*COMPARED, *COSTS} - values.keys()
            if missing:
                raise ValueError(f'the results of {model}, {arm}, seed {seed} lack '
                                 f'{sorted(missing)}; call tools/study.py again, which writes them '
                                 'anew')

    def arms(self) -> dict[str, list[str]]:
        """The arms of each model, in order."""
        arms: dict[str, list[str]] = {}
        for model, arm, _ in self.values:
            if arm not in arms.setdefault(model, []):
                arms[model].append(arm)
        return arms

    def seeds(self, model: str, arm: str) -> list[int]:
        """The seeds that an arm has ended with."""
        return sorted(seed for *key, seed in self.values if key == [model, arm])

    def final(self, model: str, arm: str, measure: str, seeds: Sequence[int]) -> list[float]:
        """Of each seed the accuracy of the last validation, or the mean over the blocks."""
        series = [self.values[model, arm, seed][measure] for seed in seeds]
        return [each[max(each)] if measure == 'accuracy' else statistics.fmean(each.values())
                for each in series]

    def describe_ends(self) -> list[str]:
        """Of each model whose runs ended after different epochs, a sentence that says so."""
        sentences = []
        for model, arms in self.arms().items():
            ends = {arm: {seed: max(self.values[model, arm, seed]['accuracy'])
                          for seed in self.seeds(model, arm)} for arm in arms}
            sentence = describe_ends(ends)
            if sentence:
                sentences.append(f'{model}: {sentence}')
        return sentences


def means_table(runs: Runs) -> str:
    """Markdown table of the mean and standard deviation over seeds of every arm.

    Accuracy is that of the last epoch. Similarities, lower is more diverse, are means over the
    blocks: of patch tokens, attention heads, and rows of query, key and value matrices.

    Args:
        runs (Runs): Of a study.
    """
    measured = {**COMPARED, **COSTS}
    rows = [('model', 'arm', 'seeds', *(label for label, _ in measured.values()))]
    for model, arms in runs.arms().items():
        for arm in arms:
            seeds = runs.seeds(model, arm)
            rows.append((model, arm, str(len(seeds)), *(
                spread(runs.final(model, arm, measure, seeds), digits)
                for measure, (_, digits) in measured.items())))
    return aligned_table(rows, labels=2)


def differences_table(runs: Runs) -> str:
    """Markdown table of the difference of every arm to its plain twin.

    The mean over the seeds that both have ended with, and its 95 % confidence interval by
    Student's t over the pairs; one seed has no interval.

    Args:
        runs (Runs): Of a study.
    """
    rows = [('model', 'arm', 'pairs', *(label for label, _ in COMPARED.values()))]
    for model, arms in runs.arms().items():
        for arm in arms:
            seeds = sorted({*runs.seeds(model, arm)} & {*runs.seeds(model, PLAIN)})
            if arm != PLAIN and seeds:
                rows.append((model, arm, str(len(seeds)), *(
                    _interval(runs.final(model, arm, measure, seeds),
                              runs.final(model, PLAIN, measure, seeds), digits)
                    for measure, (_, digits) in COMPARED.items())))
    return aligned_table(rows, labels=2)


def _interval(values: Sequence[float], plain: Sequence[float], digits: int) -> str:
    mean = f'{statistics.fmean(values) - statistics.fmean(plain):+.{digits}f}'
    if len(values) < 2:
        return mean
    low, high = ttest_rel(values, plain).confidence_interval(0.95)
    return f'{mean} ({low:+.{digits}f} to {high:+.{digits}f})'


def plot_accuracy(runs: Runs, path: str | Path) -> None:
    """Draw validation accuracy over epochs.

    Lines are means over seeds, bands their range, at epochs that all seeds have; thin lines are
    seeds that have others. That runs ended after different epochs is said above.

    Args:
        runs (Runs): Of a study.
        path (str | Path): Picture to write.
    """
    figure, panels, styles = _figure(runs, 1)
    for model, (axes,) in panels.items():
        for arm in runs.arms()[model]:
            _draw_mean(axes, runs, model, arm, 'accuracy', styles[arm])
        axes.set(title=model, xlabel='epoch', ylabel='accuracy (%)')
    figure.suptitle('\n'.join(textwrap.fill(sentence, 120) for sentence in runs.describe_ends()),
                    fontsize=7)
    _save(figure, panels, path)


def plot_similarity(runs: Runs, path: str | Path) -> None:
    """Draw the similarity of every block after training; lower is more diverse.

    Args:
        runs (Runs): Of a study.
        path (str | Path): Picture to write.
    """
    figure, panels, styles = _figure(runs, len(MEASURES))
    for model, row in panels.items():
        for axes, (measure, label) in zip(row, MEASURES.items()):
            for arm in runs.arms()[model]:
                _draw_mean(axes, runs, model, arm, measure, styles[arm])
            axes.set(title=f'{model}: {label}', xlabel='block', ylim=(0, None))
    _save(figure, panels, path)


def plot_tradeoff(runs: Runs, path: str | Path) -> None:
    """Draw the accuracy of every run against its redundancy.

    Args:
        runs (Runs): Of a study.
        path (str | Path): Picture to write.
    """
    figure, panels, styles = _figure(runs, len(MEASURES))
    for model, row in panels.items():
        for axes, (measure, label) in zip(row, MEASURES.items()):
            for arm in runs.arms()[model]:
                seeds = runs.seeds(model, arm)
                axes.scatter(runs.final(model, arm, measure, seeds),
                             runs.final(model, arm, 'accuracy', seeds), s=22, label=arm,
                             color=styles[arm].colour, marker=styles[arm].marker)
            axes.set(title=model, xlabel=label, ylabel='accuracy (%)')
    _save(figure, panels, path)


class _Style(NamedTuple):
    colour: tuple[float, ...]
    line: str
    marker: str


def _choose_styles(arms: Iterable[str]) -> dict[str, _Style]:
    """Grey for the plain arm; nine colours for others, of solid lines, then of dashed ones."""
    colours = list(matplotlib.colormaps['tab10'].colors)
    grey = colours.pop(7)
    marks = [('-', 'o'), ('--', '^'), (':', 's'), ('-.', 'D')]
    others = itertools.cycle(_Style(colour, *mark) for mark in marks for colour in colours)
    return {arm: _Style(grey, *marks[0]) if arm == PLAIN else next(others)
            for arm in dict.fromkeys(arms)}


def _figure(runs: Runs, columns: int) -> tuple[Figure, dict[str, np.ndarray], dict[str, _Style]]:
    """A row of panels for each model, and a style for each arm."""
    styles = _choose_styles(arm for arms in runs.arms().values() for arm in arms)
    figure = Figure(figsize=(max(7, 4.2 * columns), 3.4 * len(runs.arms()) + 0.5),
                    layout='constrained')
    grid = figure.subplots(len(runs.arms()), columns, squeeze=False)
    return figure, dict(zip(runs.arms(), grid)), styles


def _draw_mean(axes: Axes, runs: Runs, model: str, arm: str, measure: str, style: _Style) -> None:
    draw_curves(axes, [runs.values[model, arm, seed][measure] for seed in runs.seeds(model, arm)],
                arm, 0.15, color=style.colour, linestyle=style.line)


def _save(figure: Figure, panels: dict[str, np.ndarray], path: str | Path) -> None:
    for axes in (each for row in panels.values() for each in row):
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    handles = {label: handle for row in panels.values()
               for handle, label in zip(*row[0].get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc='outside lower center', frameon=False,
                  ncols=min(int(figure.get_figwidth() / 1.5), len(handles)))
    figure.savefig(path, dpi=110)
