"""How many images a second train from memory and through MMPretrain's ordinary pipeline.

Usage:
    python tools/benchmarks/data_path.py CONFIG --out FILE.json
    python tools/benchmarks/data_path.py CONFIG --workers 0 4 8 --batch-size 512 --out FILE.json

CONFIG trains on an mmdiverse.InMemoryDataset; the ordinary pipeline is derived from it. Both are
measured in one process, in turn and in an order that alternates, so that a slow moment of the
machine meets both; beside them their data alone and the model alone, to show what is the limit.
"""
import argparse
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
import torch

from mmdiverse.config import load_config
from mmdiverse.evaluation.data_path import ARMS, DataPaths, measure
from mmdiverse.evaluation.measurement import ProgressLine, ResultsFile, describe_machine
from mmdiverse.report.markdown import aligned_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure images per second of training steps, of the data alone and of the '
        'model alone. With --out, interrupt it at any time: the same command goes on.')
    parser.add_argument('config', help='a config: a path, or package::path')
    parser.add_argument('--workers', nargs='+', type=int, default=[0], metavar='N',
                        help='processes that load the ordinary data; several are measured one '
                        'after the other (default: 0, none)')
    parser.add_argument('--batch-size', type=int, help="default: the config's")
    parser.add_argument('--steps', type=int, default=20, help='steps of each in a round')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', choices=('cpu', 'cuda'),
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, metavar='FILE.json')
    parser.add_argument('--restart', action='store_true', help='forget what --out holds already')
    args = parser.parse_args()
    if args.rounds < 2 or args.steps < 1 or min(args.workers) < 0:
        parser.error('--rounds must be at least 2, --steps at least 1 and --workers at least 0, '
                     f'but got {args.rounds}, {args.steps} and {min(args.workers)}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda needs a GPU, but PyTorch finds none')
    return args


def main() -> None:
    args = parse_args()
    try:
        benchmark(args)
    except KeyboardInterrupt:
        sys.exit('Interrupted. With --out, the same command goes on from here.')
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def benchmark(args: argparse.Namespace) -> None:
    """Measure with every number of workers that the file does not hold yet."""
    cfg = load_config(args.config)
    file = ResultsFile(args.out, dict(
        config=args.config, batch_size=args.batch_size or cfg.train_dataloader.batch_size,
        steps=args.steps, rounds=args.rounds, **describe_machine(torch.device(args.device))),
        args.restart)
    progress = ProgressLine(len(args.workers) * args.rounds * len(ARMS))
    for workers in args.workers:
        name = f'{workers} workers'
        if name in file.results:
            progress.skip(args.rounds * len(ARMS))
            continue
        paths = DataPaths(cfg, workers, args.batch_size, args.device)
        progress.start(name)
        file.add(name, measure(paths, args.steps, args.rounds, lambda: progress.advance(1)))
        progress.end()
    print(aligned_table([('images/s', *ARMS, 'speed-up')] + [
        (name, *(f'{result["images_per_second"][arm]["median"]:,.0f}' for arm in ARMS),
         f'{result["speedup"]:.2f}') for name, result in file.results.items()]))


if __name__ == '__main__':
    main()
