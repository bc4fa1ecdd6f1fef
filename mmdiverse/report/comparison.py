"""Table and picture of a diversified model beside its plain twin."""
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

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


def format_table(results: Sequence[Result]) -> str:
    """Markdown table of the means over seeds.

    Spread is the standard deviation over seeds; that of the difference is over the pairs, whose
    twins share a seed. Similarities are averaged over the blocks.

    Args:
        results (Sequence[dict]): From :func:`~mmdiverse.evaluation.comparison.compare`.

    Returns:
        str: The table, or a line that says that no pair is complete.
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
    return aligned_table(rows)


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

    Lines are means over seeds, bands their range.

    Args:
        results (Sequence[dict]): From :func:`~mmdiverse.evaluation.comparison.compare`, with at
            least one complete pair.
        path (str | Path): Picture to write; the suffix says the format.
        title (str): Title of the picture.
    """
    pairs = complete_pairs(results)
    figure = Figure(figsize=(11, 6.4), layout='constrained')
    figure.suptitle(f'{title}, {count_seeds(pairs)}')
    top, bottom = figure.subfigures(2, 1)
    panels = [*zip(('accuracy_per_epoch', 'loss_per_epoch'), top.subplots(1, 2)),
              *zip(MEASURES, bottom.subplots(1, 3))]
    titles = {'accuracy_per_epoch': f'validation {pairs[0][0]["metric"]} (%)',
              'loss_per_epoch': 'training loss of the head', **MEASURES}
    for key, axes in panels:
        for arm, runs in zip(COLOURS, zip(*pairs)):
            curves = list(zip(*(run[key] for run in runs)))
            # Blocks count from 0, as `layers` does.
            x = range(len(curves)) if key in MEASURES else range(1, len(curves) + 1)
            axes.plot(x, [statistics.fmean(points) for points in curves], color=COLOURS[arm],
                      label=arm, marker='o' if key in MEASURES else None, markersize=4)
            axes.fill_between(x, [min(points) for points in curves],
                              [max(points) for points in curves], color=COLOURS[arm], alpha=0.2,
                              linewidth=0)
        axes.set_title(titles[key], fontsize=10)
        axes.set_xlabel('block' if key in MEASURES else 'epoch')
        axes.xaxis.get_major_locator().set_params(integer=True)
        if key in MEASURES:
            axes.set_ylim(0, 1.03)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0][1].legend(frameon=False)
    figure.savefig(path, dpi=110)
