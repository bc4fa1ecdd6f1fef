"""Train a diversified model beside its plain twin, and compare accuracy and redundancy.

Usage:
    python tools/compare.py configs/digits/deit-nano_diverse_digits.py --seeds 3
"""
import argparse
import json
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmengine.config import DictAction

from mmdiverse.config import load_config
from mmdiverse.evaluation.comparison import compare
from mmdiverse.evaluation.runs import merge_options
from mmdiverse.report.comparison import complete_pairs, format_table, plot_comparison


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(
        'Train a diversified config and its plain twin with the same seeds and data order; print '
        'a table, and write compare.json, compare.md and compare.png. Interrupt it at any time: '
        'the same command goes on.'))
    parser.add_argument('config', help='a diversified config: a path, or package::path')
    parser.add_argument('--seeds', type=int, default=3, help='pairs of runs (default: 3)')
    parser.add_argument('--work-dir', help='default: work_dirs/compare/<config name>')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help="override settings, as in MMPretrain's tools: key=value ...")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.seeds < 1:
        sys.exit(f'--seeds must be at least 1, but got {args.seeds}')
    name = Path(args.config).stem
    work_dir = Path(args.work_dir or Path('work_dirs') / 'compare' / name)
    try:
        cfg = load_config(args.config)
        merge_options(cfg, args.cfg_options)
        results = compare(cfg, work_dir, range(args.seeds))
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    table = format_table(results)
    print(f'\n{table}\n')
    (work_dir / 'compare.json').write_text(json.dumps(results, indent=2) + '\n')
    (work_dir / 'compare.md').write_text(table + '\n')
    if complete_pairs(results):
        plot_comparison(results, work_dir / 'compare.png', name)
        print(f'{work_dir / "compare.png"}')
    print(f'{work_dir / "compare.json"}\n{work_dir / "compare.md"}')
    return int(len(results) < 2 * args.seeds)


if __name__ == '__main__':
    sys.exit(main())
