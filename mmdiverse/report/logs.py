"""The log of a run, for MMPretrain's own script that draws it."""
import os
import runpy
import sys
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


def analyze_logs() -> None:
    """Run MMPretrain's ``analyze_logs.py`` with the arguments of this process."""
    if '--out' in sys.argv:  # nothing to show, so no need of a screen
        os.environ.setdefault('MPLBACKEND', 'Agg')
    with patch('mmpretrain.utils.load_json_log', load_even_log):
        runpy.run_path(str(host_script('analysis_tools/analyze_logs.py')), run_name='__main__')
