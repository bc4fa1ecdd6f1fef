"""The log of a run, for MMPretrain's own script that draws it."""
import os
import runpy
import sys
from collections import Counter
from typing import Any
from unittest.mock import patch

from mmpretrain.utils import load_json_log

from ..launch import host_script


def load_even_log(path: str) -> dict[str, list[dict[str, Any]]]:
    """Load a log with MMPretrain, so that all of its lines have all keys.

    MMPretrain's script looks at the first line for what there is to draw, and takes it from all.
    But terms with a schedule come and go, and RedundancyHook writes lines of its own, which
    MMPretrain counts among those of validation.

    Args:
        path (str): Of ``scalars.json``, with one JSON object on each line.

    Returns:
        dict[str, list[dict]]: The lines of ``'train'``, and of ``'val'`` with those of a kind
        together, so that a curve has no gaps. NaN where a line lacks a key, which is not drawn.
    """
    log = load_json_log(path)
    log['val'].sort(key=sorted)
    for mode, lines in log.items():
        absent = {key: float('nan') for line in lines for key in line}
        log[mode] = [{**absent, **line} for line in lines]
    return log


def load_log_for_script(path: str) -> dict[str, list[dict[str, Any]]]:
    """Load an even log, in which the script that this process runs finds the right epochs.

    Args:
        path (str): Of ``scalars.json``.
    """
    log = load_even_log(path)
    if 'plot_curve' in sys.argv:
        _correct_last_epoch(log['train'])
    elif 'cal_train_time' in sys.argv:
        _comment_epochs(log['train'], path)
    return log


def _correct_last_epoch(lines: list[dict[str, Any]]) -> None:
    """Have the script find how many iterations an epoch has, where a run ended within one.

    It divides the iteration of the last line by the epoch of that line, which has not ended yet.
    """
    if lines and 'epoch' in lines[-1]:
        iterations = max(line['step'] / line['epoch'] for line in lines)
        lines[-1]['epoch'] = lines[-1]['step'] / iterations


def _comment_epochs(lines: list[dict[str, Any]], path: str) -> None:
    """Say what the script does not: which epoch it calls the first, and why it finds no time."""
    epochs = Counter(line['epoch'] for line in lines if 'epoch' in line)
    first = min(epochs, default=1)
    if first != 1:
        print(f'{path} begins with epoch {first}, which is called epoch 1 below.')
    if 1 in epochs.values() and '--include-outliers' not in sys.argv:
        print(f'{path} has epochs of one line, and without it no time (nan): add '
              '--include-outliers, or log more often (`default_hooks.logger.interval`).')


def analyze_logs() -> None:
    """Run MMPretrain's ``analyze_logs.py`` with the arguments of this process."""
    if '--out' in sys.argv:  # nothing to show, so no need of a screen
        os.environ.setdefault('MPLBACKEND', 'Agg')
    with patch('mmpretrain.utils.load_json_log', load_log_for_script):
        runpy.run_path(str(host_script('analysis_tools/analyze_logs.py')), run_name='__main__')
