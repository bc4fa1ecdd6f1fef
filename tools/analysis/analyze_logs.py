"""Draw what a run logged, and how long its steps took: MMPretrain's own analyze_logs.py.

Usage:
    python tools/analysis/analyze_logs.py plot_curve LOG.json --keys patch_cosine --out curves.png
    python tools/analysis/analyze_logs.py cal_train_time LOG.json

LOG.json is WORK_DIR/TIMESTAMP/vis_data/scalars.json.
"""
import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.report.logs import analyze_logs

if __name__ == '__main__':
    analyze_logs()
