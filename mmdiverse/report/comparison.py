"""Table and picture of a diversified model beside its plain twin."""
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.runs import epochs_of
from .markdown import aligned_table

Result = dict[str, Any]

#: Measure of redundancy and how it is called in table and picture.
MEASURES = {'token_cosine_absolute': 'token similarity', 'head_cosine': 'head similarity',
            'neuron_cosine_mean': 'weight similarity'}
COLOURS = {'plain': '#7f7f7f', 'diverse': '#0072b2'}


def complete_pairs(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """The seeds for which both twins have ended, as (plain, diverse)."""
    arms = {(result['arm'], result['seed']): result for result in results}
    seeds = sorted({seed for _, seed in arms})
    return [(arms['plain', seed], arms['diverse', seed]) for seed in seeds
            if ('plain', seed) in arms and ('diverse', seed) in arms]


def describe_ends(ends: Mapping[str, Mapping[int, int]]) -> str:
    """Say which runs ended after which epoch, unless all ended after the same.

    Args:
        ends (Mapping[str, Mapping[int, int]]): For each arm and seed its last epoch.

    Returns:
        str: A sentence, or nothing.
    """
    if len({epoch for seeds in ends.values() for epoch in seeds.values()}) < 2:
        return ''
    arms = []
    for arm, seeds in ends.items():
        after: dict[int, list[str]] = {}
        for seed, epoch in sorted(seeds.items(), key=lambda item: (item[1], item[0])):
            after.setdefault(epoch, []).append(str(seed))
        arms.append(f'{arm} after ' + ', '.join(
            f'{epoch} (seed{"s" if len(names) > 1 else ""} {", ".join(names)})'
            for epoch, names in after.items()))
    return f'Runs ended after different epochs: {"; ".join(arms)}.'


def _describe_ends(pairs: Sequence[tuple[Result, Result]]) -> str:
    return describe_ends({arm: {run['seed']: epochs_of(run, 'loss')[-1] for run in runs}
                          for arm, runs in zip(COLOURS, zip(*pairs))})


def draw_curves(axes: Axes, curves: Sequence[Mapping[int, float]], label: str, opacity: float,
                **style: Any) -> None:
    """Draw the mean of curves as a line, and their range as a band, where all have a point.

    A curve that has points where another has none is also drawn on its own, as a thin line.

    Args:
        axes (Axes): Where.
        curves (Sequence[Mapping[int, float]]): Of each seed, values by epoch or block.
        label (str): Of the line.
        opacity (float): Of the band.
        style: Of the line, at least its ``color``.
    """
    x = sorted(set.intersection(*(set(curve) for curve in curves)))
    columns = [[curve[place] for curve in curves] for place in x]
    # A point on its own makes no line.
    marker = {} if len(x) > 1 else dict(marker='o', markersize=4)
    axes.plot(x, [statistics.fmean(values) for values in columns], label=label,
              **{**marker, **style})
    axes.fill_between(x, [min(values) for values in columns], [max(values) for values in columns],
                      color=style['color'], alpha=opacity, linewidth=0)
    for curve in curves:
        if len(curve) > len(x):
            axes.plot(sorted(curve), [curve[place] for place in sorted(curve)], linewidth=0.6,
                      color=style['color'], linestyle=style.get('linestyle', '-'))
    axes.xaxis.get_major_locator().set_params(integer=True)


def format_table(results: Sequence[Result]) -> str:
    """Markdown table of the means over seeds.

    Spread is the standard deviation over seeds; that of the difference is over the pairs, whose
    twins share a seed. Similarities are averaged over the blocks.

    Args:
        results (Sequence[dict]): From :func:`~mmdiverse.evaluation.comparison.compare`.

    Returns:
        str: The table, and a line below it if runs ended after different epochs; or a line that
        says that no pair is complete.
    """
    pairs = complete_pairs(results)
    if not pairs:
        return 'No seed has both its runs yet: nothing to compare.'
    rows = [(f'mean of {count_seeds(pairs)}', 'plain', 'diverse', 'difference'),
            paired_row(f'{pairs[0][0]["metric"]} (%), higher is better',
                       [[run['accuracy'] for run in pair] for pair in pairs], 2)]
    for measure, label in MEASURES.items():
        rows.append(paired_row(f'{label}, lower is more diverse',
                               [[statistics.fmean(run[measure]) for run in pair]
                                for pair in pairs], 3))
    rows.append(paired_row('seconds per training epoch',
                           [[run['seconds_per_epoch'] for run in pair] for pair in pairs], 2))
    return '\n\n'.join(filter(None, [aligned_table(rows), _describe_ends(pairs)]))


def count_seeds(pairs: Sequence[tuple[Result, Result]]) -> str:
    """How many seeds there are, in words."""
    return f'{len(pairs)} seed{"s" if len(pairs) > 1 else ""}'


def paired_row(label: str, pairs: Sequence[Sequence[float]], digits: int) -> tuple[str, ...]:
    """The mean and spread of the plain values, of the diverse ones, and of their differences.

    Args:
        label (str): First cell.
        pairs (Sequence[Sequence[float]]): Of each seed, plain and diverse.
        digits (int): After the point.
    """
    plain, diverse = zip(*pairs)
    difference = [second - first for first, second in pairs]
    return (label, spread(plain, digits), spread(diverse, digits),
            spread(difference, digits, '+'))


def spread(values: Sequence[float], digits: int, sign: str = '') -> str:
    """Mean and, of more than one value, standard deviation.

    Args:
        values (Sequence[float]): One for each seed.
        digits (int): After the point.
        sign (str): ``'+'`` gives positive means their sign. Defaults to none.
    """
    text = f'{statistics.fmean(values):{sign}.{digits}f}'
    return text if len(values) < 2 else f'{text} ± {statistics.stdev(values):.{digits}f}'


def plot_comparison(results: Sequence[Result], path: str | Path, title: str) -> None:
    """Draw accuracy and loss over epochs, and similarity over depth, of both twins.

    Lines are means over seeds, bands their range, at epochs that all seeds have; thin lines are
    seeds that have others. That runs ended after different epochs is said above.

    Args:
        results (Sequence[dict]): From :func:`~mmdiverse.evaluation.comparison.compare`, with at
            least one complete pair.
        path (str | Path): Picture to write; the suffix says the format.
        title (str): Title of the picture.
    """
    pairs = complete_pairs(results)
    figure = Figure(figsize=(11, 6.4), layout='constrained')
    figure.suptitle('\n'.join([f'{title}, {count_seeds(pairs)}',
                               *textwrap.wrap(_describe_ends(pairs), 120)]))
    top, bottom = figure.subfigures(2, 1)
    panels = [*zip(('accuracy_per_epoch', 'loss_per_epoch'), top.subplots(1, 2)),
              *zip(MEASURES, bottom.subplots(1, 3))]
    titles = {'accuracy_per_epoch': f'validation {pairs[0][0]["metric"]} (%)',
              'loss_per_epoch': 'training loss of the head', **MEASURES}
    for key, axes in panels:
        for arm, runs in zip(COLOURS, zip(*pairs)):
            # Blocks count from 0, as `layers` does.
            curves = [dict(enumerate(run[key])) if key in MEASURES else
                      dict(zip(epochs_of(run, key.removesuffix('_per_epoch')), run[key]))
                      for run in runs]
            marker = dict(marker='o', markersize=4) if key in MEASURES else {}
            draw_curves(axes, curves, arm, 0.2, color=COLOURS[arm], **marker)
        axes.set_title(titles[key], fontsize=10)
        axes.set_xlabel('block' if key in MEASURES else 'epoch')
        if key in MEASURES:
            axes.set_ylim(0, 1.03)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0][1].legend(frameon=False)
    figure.savefig(path, dpi=110)
