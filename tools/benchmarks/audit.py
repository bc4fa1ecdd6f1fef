"""What an audit costs: forward passes that are measured beside plain ones.

Usage:
    python tools/benchmarks/audit.py mmpretrain::deit/deit-small_4xb256_in1k.py --out FILE.json

Every batch goes through the backbone plain and measured, in one process, in an order that
alternates, so that a slow moment of the machine meets both.
"""
import argparse
import json
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
import torch

from mmdiverse.evaluation.audit_cost import WARM_UP, measure_audit
from mmdiverse.evaluation.measurement import ProgressLine, describe_machine
from mmdiverse.evaluation.model_loading import load_model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time a backbone on random images, plain and with all measures of tokens and '
        'heads, and print the ratio.')
    parser.add_argument('model', help='a config, or what else tools/analysis/audit.py takes')
    parser.add_argument('--images', type=int, default=1000)
    parser.add_argument('--subsampled', type=int, default=32, help='for the dear measures')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('--device', choices=('cpu', 'cuda'),
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, metavar='FILE.json')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device = torch.device(args.device)
    try:
        model = load_model(args.model, device=device)
        progress = ProgressLine(args.images // args.batch_size + WARM_UP)
        progress.start(model.name)
        result = measure_audit(model.model.backbone, args.batch_size, args.img_size, args.images,
                               args.subsampled, lambda: progress.advance(1))
        progress.end()
        low, high = result['quartiles']
        first, last = (result['resident_bytes'][index] / 2**20 for index in (0, -1))
        print(f'{result["images"]} images, {result["subsampled"]} of them for the dear measures\n'
              f'all measured over all plain passes: {result["total_ratio"]:.3f}\n'
              f'of a batch: {result["median_ratio"]:.3f} (median), {low:.3f} to {high:.3f}\n'
              f'peak memory of the process: {first:.0f} MiB after the first batch, {last:.0f} MiB '
              'after the last')
        if args.out:
            settings = dict(model=args.model, batch_size=args.batch_size, img_size=args.img_size)
            args.out.write_text(json.dumps({**settings, **describe_machine(device), **result},
                                           indent=2) + '\n', encoding='utf-8')
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
    main()
