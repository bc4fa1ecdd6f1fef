"""Compare plain and diversified backbones in detection and segmentation, without a download.

Usage:
    python tools/downstream/compare.py
    python tools/downstream/compare.py --seeds 1 --random --work-dir work_dirs/downstream_one
"""
import argparse
import json
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.config import load_config
from mmdiverse.evaluation.downstream_comparison import STAGES, compare_downstream
from mmdiverse.report.comparison import complete_pairs
from mmdiverse.report.downstream_comparison import format_table, plot_predictions
from mmdiverse.toolboxes import check_toolboxes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(
        'Pretrain a nano classifier on digits, plain and diversified; fine-tune both as detector '
        'and as segmentor on scenes of digits; print a table, and write compare.json, compare.md '
        'and predictions.png. Interrupt it at any time: the same command goes on.'))
    parser.add_argument('--seeds', type=int, default=3, help='runs of each kind (%(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/downstream', help='(%(default)s)')
    parser.add_argument('--random', action='store_true',
                        help='also fine-tune from random weights')
    for stage, path in STAGES.items():
        parser.add_argument(f'--{stage}', metavar='CONFIG', default=path,
                            help=f'config, a path or package::path ({path.name})')
        parser.add_argument(f'--{stage}-epochs', type=int, metavar='N',
                            help='other than the config says')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.seeds < 1:
        sys.exit(f'--seeds must be at least 1, but got {args.seeds}')
    work_dir = Path(args.work_dir)
    try:
        check_toolboxes()
        configs = {stage: load_config(getattr(args, stage)) for stage in STAGES}
        for stage, cfg in configs.items():
            if getattr(args, f'{stage}_epochs'):
                cfg.train_cfg.max_epochs = getattr(args, f'{stage}_epochs')
        results = compare_downstream(configs, work_dir, range(args.seeds), args.random)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    table = format_table(results)
    print(f'\n{table}\n')
    (work_dir / 'compare.json').write_text(json.dumps(results, indent=2) + '\n')
    (work_dir / 'compare.md').write_text(table + '\n')
    if complete_pairs(results):
        plot_predictions(results, work_dir, work_dir / 'predictions.png')
        print(f'{work_dir / "predictions.png"}')
    print(f'{work_dir / "compare.json"}\n{work_dir / "compare.md"}')
    return int(len(results) < (3 if args.random else 2) * args.seeds)


if __name__ == '__main__':
    sys.exit(main())
