"""Figures of an audit: curves over depth, heat maps, spectra, and attention over images."""
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import cv2
import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)
from torch import Tensor

from ..evaluation.audit import ModelAudit
from ..evaluation.redundancy import name_blocks, quarter_energy
from ..measures import MEASURES, Measure, noise_quarter_energy
from ..taps.base import EMBED

#: Inches. In a column of 358 CSS pixels a point is then 1.13 of them.
WIDTH, HEIGHT = 4.4, 3.0
#: Colours of text, lines of the grid and background. No other thing is drawn in these, so that a
#: page can put its own in their place, see :func:`inline_svg`.
INK, GRID, PAPER = '#1a1a1b', '#d5d5d6', '#fffffe'
#: Those of Okabe and Ito, the last three darker, so that they stand out by 3 to 1 on white; a page
#: has lighter ones on black.
PALETTE = ('#0072b2', '#d55e00', '#00845f', '#b5588c', '#a86f00', INK)
MARKERS = ('o', 's', 'D', '^', 'v', 'P')
LINES = ('-', '--', '-.', ':', (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)))
#: Colours of a heat map whose low values are the redundant ones, and of one whose high values are.
HEAT = {'higher': 'viridis_r', 'lower': 'viridis', 'neither': 'viridis'}
#: Heat maps of similarities show at least this span, that noise may not look like structure.
SMALLEST_SPAN = 0.1
#: Measures that range over orders of magnitude.
LOGARITHMIC = ('eigenvalue_spread', )
#: The scale of attention over an image ends at its largest value, but not below so many means.
SMALLEST_PEAK = 3
#: Side of the pictures of attention, in pixels.
TILE = 192
#: Longest name in a legend.
LONGEST_NAME = 26

STYLE = {
    'font.size': 9, 'axes.labelsize': 9, 'axes.titlesize': 9, 'legend.fontsize': 9,
    'xtick.labelsize': 8.5, 'ytick.labelsize': 8.5, 'text.color': INK, 'axes.labelcolor': INK,
    'axes.edgecolor': INK, 'xtick.color': INK, 'ytick.color': INK, 'axes.linewidth': 0.7,
    'axes.facecolor': 'none', 'figure.facecolor': PAPER, 'savefig.facecolor': PAPER,
    'grid.color': GRID, 'grid.linewidth': 0.6, 'axes.grid': False, 'axes.axisbelow': True,
    'axes.spines.top': False, 'axes.spines.right': False, 'xtick.major.width': 0.7,
    'ytick.major.width': 0.7, 'xtick.major.size': 3, 'ytick.major.size': 3,
    'lines.linewidth': 1.5, 'lines.markersize': 4, 'axes.formatter.useoffset': False,
    'axes.unicode_minus': True, 'svg.fonttype': 'none', 'svg.hashsalt': 'mmdiverse',
}

SUPERSCRIPT = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')

@dataclass(frozen=True)
class Panel:
    """A figure with what belongs beneath it.

    Attributes:
        key (str): For file names and anchors.
        title (str): Short.
        model (str): Whose it is, or nothing where all models share it.
        measure (Measure): What is shown.
        figure (Figure): Under ``STYLE``.
        note (str): How to read this kind of figure, with its range.
    """

    key: str
    title: str
    model: str
    measure: Measure
    figure: Figure
    note: str

    def svg(self) -> str:
        """The figure as a file of its own."""
        return self._render('svg').decode()

    def png(self) -> bytes:
        """The figure as a file of its own."""
        return self._render('png')

    def _render(self, kind: str) -> bytes:
        buffer = BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(buffer, format=kind, dpi=150,
                                metadata={'Date': None} if kind == 'svg' else None)
        return buffer.getvalue()


def draw_panels(models: Sequence[ModelAudit], keys: Sequence[str], level: str
                ) -> tuple[list[Panel], list[Panel]]:
    """Draw every measure of a level.

    Args:
        models (Sequence[ModelAudit]): Of which some may lack a measure.
        keys (Sequence[str]): Of the models, for file names.
        level (str): ``'patch'``, ``'attention'`` or ``'weight'``.

    Returns:
        tuple[list[Panel], list[Panel]]: Curves and heat maps.
    """
    curves, maps = [], []
    with matplotlib.rc_context(STYLE):
        for measure in measured(models):
            if measure.level != level:
                continue
            of_matrix = measure.axis in ('matrix', 'component')
            if measure.axis == 'head':
                curves.append(_heads_over_depth(measure, models))
            elif len(models) > 1 or not of_matrix:
                curves.append(_curves_over_depth(measure, models))
            having = [model for model in models if measure.name in model.values]
            for model, key in zip(models, keys):
                if measure.name not in model.values:
                    continue
                whose = model.name if len(models) > 1 else ''
                which = measure, having, model, f'{measure.name}_{key}', whose
                if measure.axis == 'layer pair':
                    maps.append(_layer_pairs(*which))
                elif measure.axis == 'head pair':
                    if max(map(len, model.values[measure.name])) > 1:
                        maps.append(_head_pairs(*which))
                elif of_matrix:
                    curves.append(_matrices_over_depth(*which))
                    if measure.axis == 'component':
                        curves.append(_spectra(*which))
                    if model.per_head.get(measure.name):
                        maps.append(_shares_of_heads(*which))
    return curves, maps


def measured(models: Sequence[ModelAudit]) -> list[Measure]:
    """What was measured of any model, in the order of the catalogue."""
    return [measure for name, measure in MEASURES.items()
            if any(name in model.values for model in models)]


def inline_svg(svg: str, key: str, label: str) -> str:
    """Make an SVG file a part of a page.

    Text takes the colour of the page, curves its variables ``--c0`` to ``--c4``, the background
    is left out and no name clashes with those of another figure.

    Args:
        svg (str): From :meth:`Panel.svg`.
        key (str): In front of all its names.
        label (str): What is to be seen, escaped already.

    Returns:
        str: An ``svg`` element.
    """
    view = re.search(r'viewBox="[^"]*"', svg).group()
    body = svg[svg.index('>', svg.index('<svg')) + 1:]
    body = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', body, flags=re.S)
    body = body.replace('xlink:href', 'href')
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"',
                  lambda match: f' id="{key}-{match[1]}"' * (match[1] in used), body)
    body = re.sub(r'(href="#|url\(#)', rf'\g<1>{key}-', body)
    for colour, variable in {INK: 'currentColor', GRID: 'var(--grid)', PAPER: 'none',
                             **{colour: f'var(--c{index})'
                                for index, colour in enumerate(PALETTE[:5])}}.items():
        body = body.replace(colour, variable)
    body = re.sub(r'\n\s*', '\n', body)
    return f'<svg {view} role="img" aria-label="{label}">{body}'


def short_name(name: str) -> str:
    """A name that fits a legend."""
    return name if len(name) <= LONGEST_NAME else f'{name[:LONGEST_NAME - 1]}…'


def say_number(value: float, digits: int = 3) -> str:
    """A number for people, a dash for NaN."""
    if math.isnan(value):
        return '–'
    if not value:
        return '0'
    mantissa, _, exponent = f'{value:#.{digits}g}'.partition('e')
    power = f' × 10{str(int(exponent)).translate(SUPERSCRIPT)}' if exponent else ''
    return mantissa.rstrip('.').replace('-', '−') + power


def _curves_over_depth(measure: Measure, models: Sequence[ModelAudit]) -> Panel:
    curves = []
    for model in models:
        layers = model.layers.get(measure.name, [])
        curves.append((layers[1:] if measure.axis == 'layer pair' else layers,
                       model.summary.get(measure.name, [])))
    note = {'layer pair': 'Each layer beside the one before it. ',
            'head pair': 'Mean over the pairs of heads of a block. ',
            'matrix': 'Mean over the matrices of a block. ',
            'component': 'The first quarter of the components, mean over the matrices of a block. ',
            }.get(measure.axis, '')
    figure, axes = _depth_figure(measure, [model.name for model in models])
    for index, (layers, values) in enumerate(curves):
        axes.plot(_places(layers), values, **_line(index))
    _finish_depth(axes, curves, measure)
    return Panel(measure.name, measure.title, '', measure, figure,
                 f'{note}Values {_say_range([values for _, values in curves])}.'
                 + _say_missing(measure, models))


def _heads_over_depth(measure: Measure, models: Sequence[ModelAudit]) -> Panel:
    figure, axes = _depth_figure(measure, [model.name for model in models])
    curves = []
    for index, model in enumerate(models):
        if measure.name not in model.values:
            continue
        layers, values = model.layers[measure.name], model.values[measure.name]
        shift = 0.24 * (index - (len(models) - 1) / 2)
        line = _line(index)
        axes.plot([place + shift for place in _places(layers)], model.summary[measure.name],
                  color=line['color'], linestyle=line['linestyle'], linewidth=1.1)
        for place, heads in zip(_places(layers), values):
            axes.plot([place + shift] * len(heads), heads, linestyle='none', alpha=0.75,
                      marker=line['marker'], color=line['color'], markeredgewidth=0)
            curves.append(([place], heads.tolist()))
    _finish_depth(axes, curves, measure)
    return Panel(measure.name, measure.title, '', measure, figure,
                 'A mark for each head, the line is their mean. '
                 f'Values {_say_range([values for _, values in curves])}.'
                 + _say_missing(measure, models))


def _matrices_over_depth(measure: Measure, models: Sequence[ModelAudit], model: ModelAudit,
                         key: str, whose: str) -> Panel:
    def curves(model: ModelAudit) -> dict[str, list[float]]:
        return {matrix: [quarter_energy(value) if measure.axis == 'component' else value.item()
                         for value in values]
                for matrix, values in model.values[measure.name].items()}

    own = curves(model)
    figure, axes = _depth_figure(measure, list(own), columns=6, linestyle='-')
    layers = model.layers[measure.name]
    for index, values in enumerate(own.values()):
        axes.plot(_places(layers), values, **_line(index) | dict(linestyle='-'))
    every = [values for other in models for values in curves(other).values()]
    _finish_depth(axes, [(layers, values) for values in every], measure)
    note = f'The first quarter of the components. {_say_noise(model, own)} ' \
        if measure.axis == 'component' else ''
    return Panel(f'{key}_matrices', f'{measure.title}, matrix by matrix', whose, measure, figure,
                 f'{note}A line for each matrix. Values {_say_range(list(own.values()))}.')


def _say_noise(model: ModelAudit, matrices: Sequence[str]) -> str:
    """What noise of the shapes of some matrices has in a quarter of its components."""
    alike: dict[str, list[str]] = {}
    for matrix in matrices:
        shapes = [shape for shape in model.shapes.get(matrix, []) if shape is not None]
        noise = sorted({f'{noise_quarter_energy(*shape):.2f}' for shape in shapes})
        if noise:
            ends = ' to '.join(dict.fromkeys((noise[0], noise[-1])))
            alike.setdefault(ends, []).append(matrix)
    parts = [f'{ends} ({", ".join(names)})' for ends, names in alike.items()]
    return f'Noise of their shapes has {", ".join(parts)}.' if parts else ''


def _spectra(measure: Measure, models: Sequence[ModelAudit], model: ModelAudit, key: str,
             whose: str) -> Panel:
    matrices = model.values[measure.name]
    layers = model.layers[measure.name]
    shown = sorted({0, len(layers) // 2, len(layers) - 1})
    rows = math.ceil(len(matrices) / 3)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.2 * rows))
    for cell, (matrix, curves) in enumerate(matrices.items()):
        row, column = divmod(cell, 3)
        axes = _add_axes(figure, 0.5 + 1.3 * column, 0.45 + 1.2 * (rows - 1 - row), 1.15, 0.97)
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
        for index, place in enumerate(shown):
            share = np.arange(1, len(curves[place]) + 1) / len(curves[place])
            axes.plot(share, curves[place], **_line(index) | dict(marker='', linewidth=1.3))
        axes.set_title(matrix, pad=2)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xticks([0, 0.5, 1], ['0', '½', '1'] if row == rows - 1 else [])
        axes.set_yticks([0, 0.5, 1], ['0', '½', '1'] if column == 0 else [])
        axes.grid(True)
    figure.text(0.5 + 0.15 / WIDTH, 0.02, 'share of the components', ha='center')
    _legend(figure, [f'block {layers[place]}' for place in shown], 3, marker='')
    return Panel(f'{key}_spectra', f'{measure.title}, whole spectra', whose, measure, figure,
                 'The share of energy against the share of components; the straight line is a '
                 'matrix all of whose directions count alike.')


def _layer_pairs(measure: Measure, models: Sequence[ModelAudit], model: ModelAudit, key: str,
                 whose: str) -> Panel:
    norm = _norm([_blank_diagonal(other.values[measure.name]) for other in models])
    values = _blank_diagonal(model.values[measure.name])
    figure = Figure(figsize=(WIDTH, 4.15))
    axes = _add_axes(figure, 0.72, 0.98, 3.1, 3.1)
    image = _heat(axes, values, measure, norm)
    layers = model.layers[measure.name]
    for axis in (axes.xaxis, axes.yaxis):
        places, labels = _depth_ticks(_places(layers), 0.31 * 10 / len(layers))
        axis.set_ticks([place - _places(layers)[0] for place in places], labels)
    axes.set_xlabel('block')
    axes.set_ylabel('block')
    _colour_bar(figure, image, measure)
    return Panel(f'{key}_pairs', f'{measure.title}, all pairs', whose, measure, figure,
                 f'Layer against layer, the diagonal left out. Values {_say_range([values])}.'
                 + _say_blank([values], 'layers of different size'))


def _head_pairs(measure: Measure, models: Sequence[ModelAudit], model: ModelAudit, key: str,
                whose: str) -> Panel:
    norm = _norm([_blank_diagonal(block) for other in models for block in
                  other.values[measure.name]])
    shown = {layer: _blank_diagonal(block) for layer, block in
             zip(model.layers[measure.name], model.values[measure.name]) if len(block) > 1}
    blocks = list(shown.values())
    columns = min(6 if len(blocks) > 12 else 4, len(blocks))
    rows = math.ceil(len(blocks) / columns)
    cell = (WIDTH - 0.2) / max(columns, 3)
    figure = Figure(figsize=(WIDTH, 0.62 + rows * (cell + 0.1)))
    for index, (layer, values) in enumerate(shown.items()):
        row, column = divmod(index, columns)
        axes = _add_axes(figure, 0.14 + column * cell,
                         0.62 + (rows - 1 - row) * (cell + 0.1), cell - 0.1, cell - 0.1)
        image = _heat(axes, values, measure, norm)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f'block {layer}' if cell > 0.8 or index == 0 else layer, pad=2,
                       fontsize=8.5)
    _colour_bar(figure, image, measure)
    return Panel(f'{key}_pairs', f'{measure.title}, all pairs', whose, measure, figure,
                 'A square for each block with several heads, head against head, the diagonal left '
                 f'out. Values {_say_range(blocks)}.' + _say_blank(blocks, 'not defined'))


def _shares_of_heads(measure: Measure, models: Sequence[ModelAudit], model: ModelAudit, key: str,
                     whose: str) -> Panel:
    def grid(model: ModelAudit, matrix: str) -> np.ndarray:
        return _pad(model.per_head[measure.name][matrix])

    matrices = model.per_head[measure.name]
    layers = model.layers[measure.name]
    rows = math.ceil(len(matrices) / 2)
    figure = Figure(figsize=(WIDTH, 0.97 + 1.4 * rows))
    for cell, matrix in enumerate(matrices):
        row, column = divmod(cell, 2)
        axes = _add_axes(figure, 0.5 + 1.98 * column, 0.98 + 1.4 * (rows - 1 - row), 1.8, 1.1)
        norm = _norm([grid(other, matrix) for other in models
                      if matrix in other.per_head[measure.name]],
                     0., log=measure.name in LOGARITHMIC)
        values = grid(model, matrix)
        image = _heat(axes, values, measure, norm)
        axes.set_aspect('auto')
        axes.set_title(f'{matrix}: {say_number(norm.vmin)} to {say_number(norm.vmax)}', pad=3)
        step = math.ceil(len(values) / 6)
        axes.set_yticks(range(0, len(values), step) if column == 0 else [])
        places, labels = _depth_ticks(_places(layers), 1.8 / len(layers))
        axes.set_xticks(*((places, labels) if row == rows - 1 else ([], [])))
    figure.text(0.5 + 0.2 / WIDTH, 0.6 / figure.get_figheight(), 'block', ha='center')
    figure.text(0.02, 0.5 + 0.45 / figure.get_figheight(), 'head', va='center', rotation=90)
    _colour_bar(figure, image, measure, ('least', 'largest'))
    own = [grid(model, matrix) for matrix in matrices]
    return Panel(f'{key}_heads', f'{measure.title}, head by head', whose, measure, figure,
                 'The share of each head in each matrix, as a matrix of its own; every matrix has '
                 f'its own scale. Values {_say_range(own)}.')


@dataclass(frozen=True)
class Tile:
    """A small picture.

    Attributes:
        key (str): For file names.
        title (str): Short.
        note (str): What else to say, or nothing.
        pixels (np.ndarray): ``(H, W, 3)``, RGB in uint8.
    """

    key: str
    title: str
    note: str
    pixels: np.ndarray


def draw_examples(model: ModelAudit) -> list[tuple[str, list[Tile]]]:
    """Draw the attention of a model to images: mean over heads in four blocks, then all heads.

    Args:
        model (ModelAudit): With examples.

    Returns:
        list[tuple[str, list[Tile]]]: Rows with their titles; none if no block has a map.
    """
    rows = []
    for index, example in enumerate(model.examples):
        blocks = sorted(example.maps)
        if not blocks:
            continue
        image = _enlarge(example.pixels.numpy())
        count = len(blocks)
        shown = sorted({blocks[0], blocks[count // 3], blocks[2 * count // 3], blocks[-1]})
        rows.append((example.name, [Tile(f'image{index}', 'image', '', image)] + [
            _overlay(f'image{index}_block{block}', f'block {block}', image,
                     example.maps[block].mean(0)) for block in shown]))
    if rows:
        example = model.examples[0]
        last = max(example.maps)
        image = _enlarge(example.pixels.numpy())
        rows.append((f'{example.name}, the heads of block {last}', [
            _overlay(f'image0_block{last}_head{head}', f'head {head}', image, attention)
            for head, attention in enumerate(example.maps[last])]))
    return rows


def _overlay(key: str, title: str, image: np.ndarray, attention: Tensor) -> Tile:
    """Attention in colours over the image in grey."""
    relative = (attention / attention.mean().clamp(min=1e-12)).numpy().astype(np.float32)
    peak = float(relative.max())
    heat = cv2.resize(relative / max(peak, SMALLEST_PEAK), image.shape[1::-1],
                      interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] / 255
    colours = colormaps['inferno'](heat.clip(0, 1))[..., :3]
    pixels = 255 * (0.6 * colours + 0.4 * grey)
    return Tile(key, title, f'peak {say_number(peak, 2)}×', pixels.astype(np.uint8))


def _enlarge(image: np.ndarray) -> np.ndarray:
    """An image with a short side of :data:`TILE`; pixels of small ones stay square."""
    scale = TILE / min(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, size,
                      interpolation=cv2.INTER_NEAREST if scale > 1.5 else cv2.INTER_AREA)


def _add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _depth_figure(measure: Measure, names: Sequence[str], columns: int = 0,
                  **style: str) -> tuple[Figure, Axes]:
    """Axes over depth, with a legend of several names in so many columns, or what fits."""
    names = [short_name(name) for name in names]
    columns = columns or max(1, min(3, 36 // (max(map(len, names)) + 5)))
    lines = math.ceil(len(names) / columns) if len(names) > 1 else 0
    height = HEIGHT + 0.18 * max(lines - 1, 0)
    figure = Figure(figsize=(WIDTH, height))
    axes = _add_axes(figure, 0.74, 0.46, WIDTH - 0.84, height - 0.56 - 0.2 * lines - 0.04)
    axes.set_xlabel('block')
    axes.set_ylabel(measure.title)
    if lines:
        _legend(figure, names, columns, **style)
    return figure, axes


def _line(index: int) -> dict:
    """How the curve of so many is drawn: no two share a marker, nor many a colour."""
    return dict(color=PALETTE[index % len(PALETTE)], marker=MARKERS[index % len(MARKERS)],
                linestyle=LINES[index % len(LINES)], markeredgewidth=0)


def _legend(figure: Figure, names: Sequence[str], columns: int, **style: str) -> None:
    """Names above the figure, in the order of their lines."""
    lines = [Line2D([], [], **_line(index) | style) for index in range(len(names))]
    # Matplotlib leaves out names that start with an underscore.
    legend = figure.legend(lines, ['\u200b' + name for name in names], ncols=columns,
                           loc='upper right', frameon=False, borderpad=0.1, borderaxespad=0.2,
                           handlelength=2.6, handletextpad=0.5, columnspacing=1.2,
                           labelspacing=0.25)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name is no formula


def _places(layers: Sequence[int | str]) -> list[int]:
    """Layers on an axis: what enters the first block lies before it."""
    return [-1 if layer == EMBED else layer for layer in layers]


def _depth_ticks(places: Sequence[int], inches: float) -> tuple[list[int], list[str]]:
    """Ticks that do not touch at so many inches from block to block; the last has one."""
    step = max(1, math.ceil(0.24 / inches))
    ticks = [place for place in reversed(range(max(places) + 1))
             if (max(places) - place) % step == 0 and place in places]
    labels = [str(place) for place in ticks]
    if -1 in places:
        while ticks and (ticks[-1] + 1) * inches < 0.36:
            del ticks[-1], labels[-1]
        ticks, labels = [*ticks, -1], [*labels, EMBED]
    return ticks, labels


def _finish_depth(axes: Axes, curves: Sequence[tuple[Sequence, Sequence[float]]],
                  measure: Measure) -> None:
    places = sorted({place for layers, _ in curves for place in _places(layers)})
    low, high = _limits([values for _, values in curves])
    axes.set_xlim(places[0] - 0.45, places[-1] + 0.45)
    ticks, labels = _depth_ticks(places, 3.5 / (places[-1] - places[0] + 0.9))
    axes.set_xticks(ticks, labels)
    if math.isnan(low):
        axes.set_yticks([])
        axes.text(0.5, 0.5, 'not defined here', transform=axes.transAxes, ha='center')
    elif measure.name in LOGARITHMIC and low > 0:
        axes.set_yscale('log')
        axes.set_ylim(low / 1.3, high * 1.3)
        if high / low < 30:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_number(value)))
            axes.yaxis.set_minor_locator(NullLocator())
    else:
        # A curve that is as good as flat shall look it.
        margin = max(0.08 * (high - low), (0.04 * max(abs(low), abs(high)) - (high - low)) / 2,
                     1e-6)
        low, high = _widen(low, high, margin)
        axes.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.grid(True, axis='y')


def _limits(parts: Sequence) -> tuple[float, float]:
    """The least and the largest of all values, NaN if there is none."""
    values = np.concatenate([np.ravel(np.asarray(part, float)) for part in parts])
    values = values[np.isfinite(values)]
    return (values.min(), values.max()) if len(values) else (math.nan, math.nan)


def _norm(parts: Sequence[np.ndarray], span: float = SMALLEST_SPAN, log: bool = False
          ) -> Normalize:
    """The common scale of heat maps, not narrower than a span."""
    low, high = _limits(parts)
    if math.isnan(low):
        return Normalize(0, 1)
    if log and low > 0:
        return LogNorm(low / 1.01, high * 1.01)
    return Normalize(*_widen(low, high, (max(span, 0.02 * abs(high), 1e-9) - (high - low)) / 2))


def _widen(low: float, high: float, margin: float) -> tuple[float, float]:
    """An interval with margins, but not beyond 0 or 1 where no value is."""
    margin = max(margin, 0.)
    if low >= 0 > low - margin:
        return 0., high + 2 * margin - low
    if high <= 1 + 1e-6 < high + margin:  # but for rounding
        return low - 2 * margin + (1 - high), 1.
    return low - margin, high + margin


def _blank_diagonal(matrix: Tensor) -> np.ndarray:
    values = matrix.numpy().copy()
    np.fill_diagonal(values, math.nan)
    return values


def _pad(blocks: Sequence[Tensor]) -> np.ndarray:
    """``(H, L)``, of blocks whose heads may be fewer than those of others."""
    values = np.full((max(map(len, blocks)), len(blocks)), math.nan)
    for column, block in enumerate(blocks):
        values[:len(block), column] = block.numpy()
    return values


def _heat(axes: Axes, values: np.ndarray, measure: Measure, norm: Normalize) -> AxesImage:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    # Without interpolation an SVG holds one pixel for each value.
    return axes.imshow(np.ma.masked_invalid(values), cmap=HEAT[measure.diverse], norm=norm,
                       interpolation='none')


def _colour_bar(figure: Figure, image: AxesImage, measure: Measure,
                ends: tuple[str, str] | None = None) -> None:
    """The scale of a heat map, with numbers or with names for its ends."""
    axes = _add_axes(figure, 0.74, 0.4, WIDTH - 1.48, 0.1)
    bar = figure.colorbar(image, cax=axes, orientation='horizontal')
    bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)
    bar.set_label(measure.title, labelpad=2)
    bar.ax.minorticks_off()
    if ends:
        bar.set_ticks([image.norm.vmin, image.norm.vmax], labels=ends)
    else:
        bar.locator = MaxNLocator(4)
        bar.update_ticks()


def _say_missing(measure: Measure, models: Sequence[ModelAudit]) -> str:
    """Which models lack it, and which blocks of the others."""
    lacking = [model.name for model in models if measure.name not in model.values]
    parts = [f' Not measured of {", ".join(lacking)}.'] if lacking else []
    for model in models:
        blocks = sorted({layer for gap in model.gaps for layer in gap.layers
                         if measure.name in gap.measures and not gap.matrix})
        if measure.name in model.values and blocks:
            whose = f' of {model.name}' * (len(models) > 1)
            parts.append(f' Not measured in {name_blocks(blocks)}{whose}.')
    return ''.join(parts)


def _say_range(parts: Sequence) -> str:
    low, high = map(say_number, _limits(parts))
    return low if low == high else f'{low} to {high}'


def _say_blank(matrices: Sequence[np.ndarray], meaning: str) -> str:
    blank = any(np.isnan(matrix).sum() > len(matrix) for matrix in matrices)
    return f' Blank: {meaning}.' * blank
