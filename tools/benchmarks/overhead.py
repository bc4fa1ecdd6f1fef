"""What diversity costs: a diversified training step beside the plain one.

Usage:
    python tools/benchmarks/overhead.py mmpretrain::deit/deit-small_4xb256_in1k.py

Both steps are taken by one model in one process, in turn and in an order that alternates, so that
a slow moment of the machine meets both. What counts is the ratio of each pair.
"""
import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmdiverse.config import load_config, load_fragment
from mmdiverse.hooks import DiversityHook


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time plain and diversified training steps in turn, and print the ratio.')
    parser.add_argument('config', help='a config: a path, or package::path')
    parser.add_argument('--fragments', nargs='+', default=['official'],
                        help='diversity fragments to time, each beside the plain step')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('--pairs', type=int, default=15, help='pairs of steps after warm-up')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    return parser.parse_args()


def build_step(model: nn.Module, batch_size: int, img_size: int) -> Callable[[], float]:
    """Make a function that takes one training step, as the runner does, and returns its seconds."""
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-4))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, 3, img_size, img_size), generator=generator,
                           dtype=torch.uint8)

    def synchronize() -> None:
        if next(model.parameters()).is_cuda:
            torch.cuda.synchronize()

    def step() -> float:
        data = dict(inputs=images.clone(),
                    data_samples=[DataSample().set_gt_label(i % 10) for i in range(batch_size)])
        synchronize()
        start = time.perf_counter()
        model.train_step(data, wrapper)
        synchronize()
        return time.perf_counter() - start

    return step


def time_pairs(step: Callable[[], float], model: nn.Module, hook: DiversityHook, pairs: int,
               label: str) -> tuple[list[float], list[float]]:
    """Time ``pairs`` pairs of a plain and a diversified step."""
    plain, diverse = [], []
    for pair in range(-2, pairs):  # two to warm up
        for diversified in ((False, True) if pair % 2 else (True, False)):
            if diversified:
                hook.attach(model)
            seconds = step()
            hook.detach()
            if pair >= 0:
                (diverse if diversified else plain).append(seconds)
        print(f'\r{label}: pair {max(pair + 1, 0)}/{pairs}', end='', file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return plain, diverse


def main() -> None:
    args = parse_args()
    init_default_scope('mmpretrain')
    cfg = load_config(args.config)
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).to(args.device).train()
    MMLogger.get_instance('overhead', log_level='WARNING')
    model.init_weights()
    step = build_step(model, args.batch_size, args.img_size)
    report = dict(config=args.config, batch_size=args.batch_size, img_size=args.img_size,
                  pairs=args.pairs, device=args.device, threads=torch.get_num_threads(),
                  machine=torch.cuda.get_device_name() if args.device == 'cuda' else
                  platform.processor() or platform.machine(),
                  torch=torch.__version__, results={})
    print(f'{"fragment":12} {"plain (s)":>10} {"ratio":>8} {"quartiles":>18}')
    for fragment in args.fragments:
        hook = DiversityHook(terms=load_fragment(fragment).terms)
        plain, diverse = time_pairs(step, model, hook, args.pairs, fragment)
        ratios = [second / first for first, second in zip(plain, diverse)]
        low, median, high = statistics.quantiles(ratios, n=4)
        report['results'][fragment] = dict(
            median_ratio=median, quartiles=[low, high], plain_seconds=plain,
            diverse_seconds=diverse)
        print(f'{fragment:12} {statistics.median(plain):10.4f} {median:8.4f} '
              f'{low:9.4f}{high:9.4f}')
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()
