"""Tables and pictures of the benchmarks."""
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Result = dict[str, Any]

COLOUR = '#0072b2'
OVERHEAD_HEADER = (f'{"":46} {"plain (s)":>10} {"time ratio":>11} {"quartiles":>15} '
                   f'{"memory ratio":>13}')
SCALING_HEADER = (f'{"":56} {"seconds, first to last size":>27} {"exponent":>9} {"predicted":>9} '
                  f'{"at the end":>10} {"predicted":>9} {"memory":>11} {"if stored":>11}')
#: Lines of the methods of a loss, by what follows its name.
LINES = {'': 'o-', 'power': 's--', 'official': '^-.'}
#: Enough to tell the losses apart.
COLOURS = (*colormaps['tab10'].colors, *colormaps['Dark2'].colors)
#: How attention is given, and how that is called.
MEMORY = {'stored_bytes': ('maps stored', '#d55e00'), 'fused_bytes': ('maps never stored', COLOUR)}


def overhead_row(name: str, result: Result) -> str:
    """A line of the table of overheads, under ``OVERHEAD_HEADER``.

    Args:
        name (str): Of the arm.
        result (dict): From :func:`~mmdiverse.evaluation.overhead.measure`.
    """
    low, high = result['quartiles']
    beside = '' if result['baseline'] == 'plain' else f'  beside {result["baseline"]}'
    return (f'{name:46} {statistics.median(result["plain_seconds"]):10.4f} '
            f'{result["median_ratio"]:11.4f} {low:7.4f}-{high:.4f} '
            f'{result["memory_ratio"]:13.4f}{beside}')


def plot_overhead(results: Mapping[str, Result], path: str | Path, title: str) -> None:
    """Draw time and memory of every arm over those of its plain step, one row for each.

    Args:
        results (Mapping[str, dict]): By name; from
            :func:`~mmdiverse.evaluation.overhead.measure`.
        path (str | Path): Picture to write; the suffix says the format.
        title (str): Title of the picture.
    """
    names = [name if result['baseline'] == 'plain' else f'{name}\n(beside {result["baseline"]})'
             for name, result in results.items()]
    figure = Figure(figsize=(11, 1.9 + 0.34 * len(names)), layout='constrained')
    figure.suptitle(title, fontsize=11)
    time, memory = figure.subplots(1, 2, sharey=True)
    rows = range(len(names))
    for row, result in zip(rows, results.values()):
        low, high = ((quartile - 1) * 100 for quartile in result['quartiles'])
        time.plot([low, high], [row, row], color=COLOUR, linewidth=5, alpha=0.3,
                  solid_capstyle='butt')
        for axes, key in ((time, 'median_ratio'), (memory, 'memory_ratio')):
            percent = (result[key] - 1) * 100
            axes.plot(percent, row, 'o', color=COLOUR, markersize=5)
            axes.annotate(f'{percent:+.1f}', (1, row), xycoords=('axes fraction', 'data'),
                          xytext=(4, 0), textcoords='offset points', va='center', fontsize=8)
    time.set_title('time (%): median and quartiles', fontsize=10)
    memory.set_title('peak memory (%)', fontsize=10)
    time.set_yticks(rows, names, fontsize=8)
    time.set_ylim(len(names) - 0.4, -0.6)
    for axes in (time, memory):
        axes.set_xlabel('above the plain step')
        axes.axvline(0, color='#7f7f7f', linewidth=1)
        _finish(axes)
    figure.savefig(path, dpi=110)


def scaling_row(name: str, result: Result) -> str:
    """A line of the table of exponents, under ``SCALING_HEADER``.

    Args:
        name (str): Of term and axis.
        result (dict): From :func:`~mmdiverse.evaluation.scaling.measure_axis`.
    """
    seconds = f'{result["seconds"][0]:.5f} to {result["seconds"][-1]:.5f}'
    row = (f'{name:56} {seconds:>27} {result["exponent"]:9.2f} '
           f'{result["predicted_exponent"]:9.2f} {result["end_exponent"]:10.2f} '
           f'{result["predicted_end_exponent"]:9.2f}')
    if 'fused_bytes' in result:
        row += ''.join(f' {_mebibytes(result[key][-1]):>11}'
                       for key in ('fused_bytes', 'stored_bytes'))
    return row


def attention_memory_text(result: Result) -> str:
    """What :func:`~mmdiverse.evaluation.scaling.compare_maps` found, in a few lines.

    Args:
        result (dict): From there.
    """
    fused, stored = result['fused_bytes'], result['stored_bytes']
    return (f'extra peak memory, maps never stored: {_mebibytes(fused):>11}\n'
            f'extra peak memory, maps stored:       {_mebibytes(stored):>11}\n'
            f'ratio:                                {fused / stored:>11.2%}\n'
            f'gradients differ by {result["gradient_difference"]:.1e}; from those in float64 by '
            f'{result["fused_error"]:.1e} (never stored) and {result["stored_error"]:.1e} (stored)')


def _mebibytes(count: float) -> str:
    return f'{count / 2**20:.1f} MiB'


def plot_scaling(results: Mapping[str, Result], path: str | Path, title: str) -> None:
    """Draw time against size, a row of panels for every level, and the memory of attention.

    Points are medians with quartiles. Dotted lines are the counted operations, at the mean height
    of the points. Legends hold the measured exponent and the predicted one.

    Args:
        results (Mapping[str, dict]): By name of term and axis; from
            :func:`~mmdiverse.evaluation.scaling.measure_axis`.
        path (str | Path): Picture to write; the suffix says the format.
        title (str): Title of the picture.
    """
    panels: dict[str, dict[str, dict[str, Result]]] = {}
    for name, result in results.items():
        term = name.rpartition(':')[0].replace(f'Loss on {result["level"]}', '')
        panels.setdefault(result['level'], {}).setdefault(result['axis'], {})[term] = result
    losses = sorted({name.partition('Loss')[0] for name in results})
    colours = dict(zip(losses, COLOURS))
    memory = panels.get('attention', {}).get('tokens')
    # The panel of memory stands beside those of the last level, which has the fewest.
    counts = [len(axes) for axes in panels.values()]
    counts[-1] += memory is not None
    figure = Figure(figsize=(5 * max(counts), 5.6 * len(counts) + 0.6), layout='constrained')
    figure.suptitle(title, fontsize=14)
    grid = figure.subplots(len(counts), max(counts), squeeze=False)
    for line, count, (level, by_axis) in zip(grid, counts, panels.items()):
        for cell, (axis, panel) in zip(line, by_axis.items()):
            _plot_times(cell, panel, colours)
            _label_sizes(cell, f'{level} level: seconds', axis, next(iter(panel.values())))
        for cell in line[count:]:
            cell.set_axis_off()
    if memory is not None:
        cell = grid[-1][counts[-1] - 1]
        _plot_memory(cell, memory.values())
        _label_sizes(cell, 'attention level: extra peak memory, MiB', 'tokens',
                     next(iter(memory.values())))
    figure.savefig(path, dpi=90)


def _plot_times(axes: Axes, panel: Mapping[str, Result], colours: Mapping[str, Any]) -> None:
    for term, result in panel.items():
        loss, _, method = term.partition(', ')
        x, y, operations = (result[key] for key in ('values', 'seconds', 'operations'))
        low, high = zip(*result['quartiles'])
        style = dict(color=colours[loss])
        axes.plot(x, y, LINES[method], markersize=4, linewidth=1.3, **style,
                  label=f'{term} {result["exponent"]:.2f} ({result["predicted_exponent"]:.2f})')
        axes.vlines(x, low, high, linewidth=3, alpha=0.4, **style)
        height = statistics.geometric_mean(y) / statistics.geometric_mean(operations)
        axes.plot(x, [height * count for count in operations], ':', linewidth=1, alpha=0.5,
                  **style)


def _plot_memory(axes: Axes, results: Iterable[Result]) -> None:
    for result in results:
        for key, (label, colour) in MEMORY.items():
            axes.plot(result['values'], [count / 2**20 for count in result[key]], 'o-',
                      color=colour, markersize=4, linewidth=1, alpha=0.6, label=label)


def _label_sizes(axes: Axes, title: str, axis: str, result: Result) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xscale('log')
    axes.set_yscale('log')
    axes.set_xticks(result['values'], result['values'])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(axis)
    # Lines of one label are one entry, beneath the panel.
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles))
    axes.legend(entries.values(), entries, fontsize=6.5, columnspacing=1, frameon=False, ncols=2,
                loc='upper center', bbox_to_anchor=(0.5, -0.12))
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
