"""Try a training run out before it is paid for: model, data, a few steps, memory, hours, terms.

Usage:
    python tools/preflight.py configs/deit/deit-small_diverse_8xb128_in1k.py
    python tools/preflight.py CONFIG --gpus 4 --batch-size 2 --sample FOLDER --out preflight.json

Exits with 1 if the run would not start, or not train as its config says.
"""
import argparse
import json
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmengine.config import DictAction

from mmdiverse.config import load_config
from mmdiverse.evaluation.preflight import planned_gpus, preflight
from mmdiverse.report.preflight import check_line, terms_table, to_json
from mmdiverse.spelling import counted


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Build a run, check its data, take a few steps, and estimate memory, hours and '
        'disk. Writes nothing but --out.')
    parser.add_argument('config', help='path, or package::path')
    parser.add_argument('--gpus', type=int, metavar='N',
                        help='that will train; default: those in the name of the config, such as '
                        '8 in 8xb128')
    parser.add_argument('--batch-size', type=int, metavar='B',
                        help='images of a step here; default: those of the config. Estimates are '
                        'scaled')
    parser.add_argument('--steps', type=int, default=3, help='to train (default: 3)')
    parser.add_argument('--sample', type=Path, metavar='FOLDER',
                        help="images in ImageNet's layout to try with in place of ImageNet; "
                        'classes and images may be missing')
    parser.add_argument('--out', type=Path, metavar='FILE', help='also write JSON there')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='settings to change')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        cfg = load_config(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
    except Exception as error:  # a config is a program, which may raise anything
        print(f'config {args.config} cannot be read: {type(error).__name__}: {error}',
              file=sys.stderr)
        return 1
    try:
        gpus = planned_gpus(args.config) if args.gpus is None else args.gpus
        print(f'preflight of {args.config} for {counted(gpus, "GPU")}', flush=True)
        found = preflight(cfg, gpus, args.batch_size, args.steps, args.sample, args.config,
                          tell=lambda check: print(check_line(check), flush=True))
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(to_json(found), indent=2) + '\n', encoding='utf-8')
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if found.terms:
        print('\nbefore the first step:\n' + terms_table(found))
    return int(not found.ok)


if __name__ == '__main__':
    sys.exit(main())
