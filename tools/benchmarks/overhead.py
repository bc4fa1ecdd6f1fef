"""What diversity costs: a diversified training step beside the plain one.

Usage:
    python tools/benchmarks/overhead.py mmpretrain::deit/deit-small_4xb256_in1k.py
    python tools/benchmarks/overhead.py CONFIG --fragments official --recipe --out FILE.json
    python tools/benchmarks/overhead.py CONFIG --terms --out FILE.json

Both steps are taken in one process, with the same parameters, in turn and in an order that
alternates, so that a slow moment of the machine meets both. What counts is the ratio of each pair.
"""
import argparse
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
import torch

from mmdiverse.config import load_config
from mmdiverse.evaluation.measurement import ProgressLine, ResultsFile, describe_machine
from mmdiverse.evaluation.overhead import (
    AMP,
    WARM_UP,
    TrainingSteps,
    fragment_arm,
    measure,
    recipe_arm,
    term_arms,
)
from mmdiverse.report.benchmarks import OVERHEAD_HEADER, overhead_row, plot_overhead


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure time and peak memory of plain and diversified training steps in turn, '
        'and print the ratios. With --out, interrupt it at any time: the same command goes on.')
    parser.add_argument('config', help='a config: a path, or package::path')
    parser.add_argument('--fragments', nargs='+', metavar='FRAGMENT', default=[],
                        help="diversity fragments, each beside the plain step; 'official' where "
                        'nothing else is asked for')
    parser.add_argument('--recipe', action='store_true',
                        help="the authors' whole recipe: 'official' with patch-level mixing")
    parser.add_argument('--terms', action='store_true',
                        help='every registered loss alone, at every level where it works')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--img-size', type=int, help="default: the backbone's `img_size`, or 224")
    parser.add_argument('--pairs', type=int, default=15, help='pairs of steps after warm-up')
    parser.add_argument('--amp', choices=AMP, help='mixed precision (default: fp32)')
    parser.add_argument('--device', choices=('cpu', 'cuda'),
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, metavar='FILE.json',
                        help='JSON file to write, with a picture FILE.png beside it')
    parser.add_argument('--restart', action='store_true', help='forget what --out holds already')
    args = parser.parse_args()
    if args.pairs < 2 or args.batch_size < 1:
        parser.error('--pairs must be at least 2 and --batch-size at least 1, but got '
                     f'{args.pairs} and {args.batch_size}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda needs a GPU, but PyTorch finds none')
    return args


def main() -> int:
    args = parse_args()
    try:
        return benchmark(args)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def benchmark(args: argparse.Namespace) -> int:
    """Measure every arm that the file does not hold yet; return 1 if one is missing."""
    arms = [fragment_arm(fragment) for fragment in args.fragments]
    arms += [recipe_arm()] * args.recipe + term_arms() * args.terms
    arms = arms or [fragment_arm('official')]
    steps = TrainingSteps(load_config(args.config), args.batch_size, args.img_size, args.device,
                          args.amp)
    file = ResultsFile(args.out, dict(
        config=args.config, batch_size=args.batch_size, img_size=steps.img_size,
        pairs=args.pairs, precision=args.amp or 'fp32', **describe_machine(steps.device)),
        args.restart)
    progress = ProgressLine(len(arms) * (args.pairs + WARM_UP))
    print(OVERHEAD_HEADER)
    missing = 0
    try:
        for arm in arms:
            if file.results.get(arm.name, {}).get('terms') == arm.terms:
                progress.skip(args.pairs + WARM_UP)
            else:
                progress.start(arm.name)
                try:
                    file.add(arm.name, measure(steps, arm, args.pairs,
                                               lambda: progress.advance(1)))
                except ValueError as error:  # it does not fit this model
                    missing += 1
                    progress.skip(args.pairs + WARM_UP)
                    progress.end()
                    print(f'{arm.name}: {error}', file=sys.stderr)
                    continue
                progress.end()
            print(overhead_row(arm.name, file.results[arm.name]), flush=True)
    except KeyboardInterrupt:
        progress.end()
        print('Interrupted. With --out, the same command goes on from here.', file=sys.stderr)
        missing += 1
    if args.out and file.results:
        picture = args.out.with_suffix('.png')
        plot_overhead(file.results, picture, title(file.settings))
        print(f'{args.out}\n{picture}')
    return int(missing > 0)


def title(settings: dict) -> str:
    return (f'{Path(settings["config"].split("::")[-1]).stem}, batch {settings["batch_size"]}, '
            f'{settings["img_size"]} pixels, {settings["precision"]}\n{settings["machine"]}, '
            f'threads: {settings["threads"]}, {settings["pairs"]} pairs of steps')


if __name__ == '__main__':
    sys.exit(main())
