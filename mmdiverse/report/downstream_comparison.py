"""Table and picture of detectors and segmentors on plain and diversified backbones."""
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from ..datasets.digit_scenes import IGNORED
from ..datasets.digits import Digits
from ..evaluation.comparison import ARMS
from ..evaluation.downstream_comparison import PREDICTIONS, RANDOM, SCENES
from .comparison import Result, complete_pairs, count_seeds, paired_row, spread
from .markdown import aligned_table

#: Rows of the table: what it is, its stage, its value there, and digits after the point.
ROWS: tuple[tuple[str, str, Callable[[Result], float], int], ...] = (
    ('accuracy (%)', 'pretraining', lambda result: result['accuracy'], 1),
    ('bbox mAP (%)', 'detection', lambda result: 100 * result['bbox_mAP'], 1),
    ('bbox mAP50 (%)', 'detection', lambda result: 100 * result['bbox_mAP_50'], 1),
    ('mIoU (%)', 'segmentation', lambda result: result['mIoU'], 1),
    *[('token similarity', stage,
       lambda result: statistics.fmean(result['token_cosine_absolute']), 3)
      for stage in ('pretraining', 'detection', 'segmentation')],
)

DIGITS = Digits.METAINFO['classes']
#: Background, digits.
PALETTE = np.array([(0.15, 0.15, 0.15), *colormaps['tab10'].colors])
RIM = (1., 1., 1.)
#: Boxes with a lower score are not drawn.
LEAST_SCORE = 0.3


def format_table(results: Sequence[Result]) -> str:
    """Markdown table of the means over seeds.

    Spread is the standard deviation over seeds; that of the difference is over the pairs, whose
    twins share a seed. Similarities, lower is more diverse, are averaged over the blocks; those of
    pretraining are of single digits, the others of scenes.

    Args:
        results (Sequence[dict]): From
            :func:`~mmdiverse.evaluation.downstream_comparison.compare_downstream`.

    Returns:
        str: The table, or a line that says that no pair is complete.
    """
    pairs = complete_pairs(results)
    if not pairs:
        return 'No seed has all runs of both twins yet: nothing to compare.'
    seeds = {plain['seed'] for plain, _ in pairs}
    randoms = [result for result in results
               if result['arm'] == RANDOM and result['seed'] in seeds]
    rows = [(f'mean of {count_seeds(pairs)}', *ARMS, 'difference', *[RANDOM] * bool(randoms))]
    for label, stage, value, digits in ROWS:
        row = paired_row(f'{stage}: {label}',
                         [[value(run[stage]) for run in pair] for pair in pairs], digits)
        values = [value(run[stage]) for run in randoms if stage in run]
        rows.append((*row, *[spread(values, digits) if values else '-'] * bool(randoms)))
    return aligned_table(rows)


def plot_predictions(results: Sequence[Result], work_dir: str | Path, path: str | Path,
                     num_scenes: int = 4) -> None:
    """Draw the first validation scenes as they are and as each model of the first seed sees them.

    Args:
        results (Sequence[dict]): From
            :func:`~mmdiverse.evaluation.downstream_comparison.compare_downstream`, with at least
            one complete pair.
        work_dir (str | Path): Where the runs went.
        path (str | Path): Picture to write; the suffix says the format.
        num_scenes (int): Rows. Defaults to 4.
    """
    seed = complete_pairs(results)[0][0]['seed']
    arms = [result['arm'] for result in results if result['seed'] == seed]
    scenes = Path(work_dir) / SCENES
    runs = {arm: Path(work_dir) / arm / f'seed{seed}' for arm in arms}
    annotations = json.loads((scenes / 'annotations' / 'instances_val.json').read_text())
    names = {category['id']: category['name'] for category in annotations['categories']}
    boxes = {'truth': annotations['annotations']} | {
        arm: json.loads((folder / 'detection' / f'{PREDICTIONS}.bbox.json').read_text())
        for arm, folder in runs.items()}
    maps = {'truth': scenes / 'masks' / 'val'} | {
        arm: folder / 'segmentation' / PREDICTIONS for arm, folder in runs.items()}

    images = annotations['images'][:num_scenes]
    figure = Figure(figsize=(1.75 * 2 * len(boxes), 1.8 * len(images) + 0.7), layout='constrained')
    figure.suptitle(f'Validation scenes, seed {seed}: detection (boxes with a score of at least '
                    f'{LEAST_SCORE}) and segmentation')
    grid = figure.subplots(len(images), 2 * len(boxes), squeeze=False)
    for image, row in zip(images, grid):
        scene = Image.open(scenes / 'val' / image['file_name'])
        for axes, found in zip(row, boxes.values()):
            axes.imshow(scene)
            _draw_boxes(axes, [box for box in found if box['image_id'] == image['id']], names)
        for axes, folder in zip(row[len(boxes):], maps.values()):
            axes.imshow(_colour(np.array(Image.open(folder / image['file_name']))))
    for axes, title in zip(grid[0], [*(f'boxes: {arm}' for arm in boxes),
                                     *(f'labels: {arm}' for arm in maps)]):
        axes.set_title(title, fontsize=9)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.legend(
        handles=[Patch(facecolor=colour, edgecolor='grey', label=label) for label, colour in
                 zip(('background', *DIGITS, 'not evaluated'), (*PALETTE, RIM))],
        loc='outside lower center', ncols=len(DIGITS) + 2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _draw_boxes(axes: Axes, boxes: Sequence[dict[str, Any]], names: dict[int, str]) -> None:
    for box in boxes:
        score = box.get('score')
        if score is not None and score < LEAST_SCORE:
            continue
        name = names[box['category_id']]
        colour = PALETTE[DIGITS.index(name) + 1]
        left, top, width, height = box['bbox']
        # Pixels have their centres, not their corners, at whole numbers.
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, linewidth=1.5,
                                 edgecolor=colour))
        axes.text(left - 0.5, top - 1, name if score is None else f'{name} {score:.2f}',
                  fontsize=6.5, color='white', va='bottom',
                  bbox=dict(facecolor=colour, edgecolor='none', pad=0.6))


def _colour(labels: np.ndarray) -> np.ndarray:
    coloured = PALETTE[np.where(labels == IGNORED, 0, labels)]
    coloured[labels == IGNORED] = RIM
    return coloured
