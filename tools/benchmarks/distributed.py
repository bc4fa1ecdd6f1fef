"""What diversity terms cost on many GPUs, computed from what they cost on one device.

Usage:
    python tools/benchmarks/distributed.py --overhead docs/benchmarks/overhead_deit-small_cpu.json

Nothing is measured here. What goes in was, by tools/benchmarks/overhead.py; all else is an
assumption, and an option.
"""
import argparse
import json
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.evaluation.distributed_cost import (
    ARMS,
    Cluster,
    MeasuredCosts,
    costs_text,
    distributed_costs,
)
from mmdiverse.report.markdown import insert_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Compute the overhead of diversity terms on some numbers of GPUs, each with as '
        'many images, from single-device costs and a model of communication; print it as tables.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--overhead', type=Path, nargs='+', required=True, metavar='FILE.json',
                        help='single-device costs, of tools/benchmarks/overhead.py')
    parser.add_argument('--arms', nargs='+', default=ARMS, metavar='ARM',
                        help='what was measured there; names joined by + count together')
    parser.add_argument('--also', nargs='+', default=[], metavar='CONFIG',
                        help='further vision transformers, scaled by counted operations')
    parser.add_argument('--gpus', type=int, nargs='+', default=[1, 8, 64, 512], metavar='N')
    parser.add_argument('--batch-size', type=int, default=128, help='images of each GPU')
    parser.add_argument('--step-seconds', type=float,
                        help='a plain step of the measured model with this batch on the GPU to '
                        'train on (default: what the measured device takes)')
    parser.add_argument('--gradient-bytes', type=int, default=4, help='of one entry')
    parser.add_argument('--gpus-per-node', type=int, default=8)
    parser.add_argument('--bandwidth-within', type=float, default=200., metavar='GB/S',
                        help='from a GPU to the next one of its node')
    parser.add_argument('--bandwidth-between', type=float, default=25., metavar='GB/S',
                        help='from a node to the next one, all its links together')
    parser.add_argument('--latency-within', type=float, default=5., metavar='MICROSECONDS')
    parser.add_argument('--latency-between', type=float, default=15., metavar='MICROSECONDS')
    parser.add_argument('--overlap', type=float, default=0.5,
                        help='part of the all-reduce of gradients that the backward pass hides')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='JSON file to write')
    parser.add_argument('--page', type=Path, metavar='FILE.md',
                        help='page to write the tables into, between marks of the name of --out')
    args = parser.parse_args()
    if args.page and not args.out:
        parser.error('--page needs --out, whose name its marks have')
    return args


def main() -> None:
    args = parse_args()
    try:
        cluster = Cluster(args.gpus_per_node, args.bandwidth_within * 1e9,
                          args.bandwidth_between * 1e9, args.latency_within * 1e-6,
                          args.latency_between * 1e-6, args.overlap)
        measured = MeasuredCosts({str(path): json.loads(path.read_text(encoding='utf-8'))
                                  for path in args.overhead})
        result = distributed_costs(measured, cluster, args.arms, args.also, args.gpus,
                                   args.batch_size, args.step_seconds, args.gradient_bytes)
        text = costs_text(result)
        print(text)
        if args.page:
            page = insert_table(args.page.read_text(encoding='utf-8'), args.out.stem, text)
            args.page.write_text(page, encoding='utf-8')
        if args.out:
            result = dict(overhead=[path.as_posix() for path in args.overhead], **result)
            args.out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
    main()
