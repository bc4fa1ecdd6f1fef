"""How time and memory of each diversity term grow with tokens, heads, layers and width.

Usage:
    python tools/benchmarks/scaling.py --out FILE.json
    python tools/benchmarks/scaling.py --attention-memory

Terms are evaluated alone, forward and backward, on random tensors of the size of a DeiT-S whose
one dimension is changed at a time.
"""
import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
import torch

from mmdiverse.evaluation.measurement import ProgressLine, ResultsFile, describe_machine
from mmdiverse.evaluation.scaling import (
    AXES,
    Size,
    compare_maps,
    measure_axis,
    scaling_terms,
    sizes_along,
)
from mmdiverse.report.benchmarks import (
    SCALING_HEADER,
    attention_memory_text,
    plot_scaling,
    scaling_row,
)

QUICK_SIZE = Size(tokens=17, heads=3, layers=2, width=48)
QUICK_AXES = {'tokens': (17, 26, 37), 'heads': (3, 6), 'layers': (2, 3), 'width': (48, 96)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure every diversity term alone at sizes along four axes, and fit the '
        'exponents. With --out, interrupt it at any time: the same command goes on.')
    parser.add_argument('--axes', nargs='+', choices=AXES, default=list(AXES))
    parser.add_argument('--attention-memory', action='store_true',
                        help='instead, memory of CosineLoss on the heads of all layers of a DeiT-S '
                        'at 1,025 tokens, beside that of stored maps')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=7,
                        help='fewest measurements of a size (default: 7)')
    parser.add_argument('--quick', action='store_true',
                        help='tiny sizes, to see that everything works')
    parser.add_argument('--device', choices=('cpu', 'cuda'),
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, metavar='FILE.json',
                        help='JSON file to write, with a picture FILE.png beside it, but for '
                        '--attention-memory')
    parser.add_argument('--restart', action='store_true', help='forget what --out holds already')
    args = parser.parse_args()
    if args.repeats < 2 or args.batch_size < 1:
        parser.error('--repeats must be at least 2 and --batch-size at least 1, but got '
                     f'{args.repeats} and {args.batch_size}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda needs a GPU, but PyTorch finds none')
    return args


def main() -> int:
    args = parse_args()
    try:
        return compare_memory(args) if args.attention_memory else benchmark(args)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def benchmark(args: argparse.Namespace) -> int:
    """Measure every term along every axis; return 1 if interrupted."""
    device = torch.device(args.device)
    base = QUICK_SIZE if args.quick else Size()
    axes = {axis: (QUICK_AXES if args.quick else AXES)[axis] for axis in args.axes}
    file = ResultsFile(args.out, dict(
        batch_size=args.batch_size, repeats=args.repeats, base=asdict(base),
        **describe_machine(device)), args.restart)
    parts = [(f'{name}: {axis}', term, axis) for axis in axes
             for name, term in scaling_terms(axis).items()]
    work = {axis: sum(map(work_of, sizes_along(axis, values, base)))
            for axis, values in axes.items()}
    progress = ProgressLine(sum(work[axis] for _, _, axis in parts))
    print(SCALING_HEADER)
    interrupted = False
    try:
        for name, term, axis in parts:
            kept = file.results.get(name, {})
            if (kept.get('term'), kept.get('values')) == (term, list(axes[axis])):
                progress.skip(work[axis])
            else:
                progress.start(name)
                file.add(name, measure_axis(
                    term, axis, axes[axis], args.batch_size, device, args.repeats, base,
                    min_seconds=0. if args.quick else 0.2,
                    on_size=lambda size: progress.advance(work_of(size))))
                progress.end()
            print(scaling_row(name, file.results[name]), flush=True)
    except KeyboardInterrupt:
        progress.end()
        print('Interrupted. With --out, the same command goes on from here.', file=sys.stderr)
        interrupted = True
    if args.out and file.results:
        picture = args.out.with_suffix('.png')
        plot_scaling(file.results, picture, f'One term, forward and backward, batch '
                     f'{args.batch_size}: {file.settings["machine"]}, '
                     f'threads: {file.settings["threads"]}')
        print(f'{args.out}\n{picture}')
    return int(interrupted)


def work_of(size: Size) -> float:
    """Rough share of a size in the time of all; maps grow as the square of the tokens."""
    return 1 + (size.tokens / 1000)**2


def compare_memory(args: argparse.Namespace) -> int:
    """Print the memory of maps that are never stored beside that of stored ones."""
    device = torch.device(args.device)
    size = Size(tokens=65 if args.quick else 1025)
    file = ResultsFile(args.out, dict(batch_size=args.batch_size, **asdict(size),
                                      **describe_machine(device)), args.restart)
    term = dict(type='CosineLoss', on='attention', layers='all', weight=1)
    result = compare_maps(term, size, args.batch_size, device)
    file.add('attention memory', dict(result, term=term))
    print(attention_memory_text(result))
    return 0


if __name__ == '__main__':
    sys.exit(main())
