"""Try the tap of every backbone that MMPretrain has a config of, and of models of timm.

Usage:
    python tools/analysis/coverage.py --out docs/coverage.json --insert docs/coverage.md
    python tools/analysis/coverage.py --match beit timm:

Each is built at its real size with random weights and sees one image, with and without its tap.
That takes hours on a CPU for all; interrupt it at any time, the same command goes on.
"""
import argparse
import gc
import platform
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
import mmpretrain
import timm
import torch

from mmdiverse.evaluation.coverage import (
    TIMM_MODELS,
    coverage_tables,
    find_candidates,
    timm_candidates,
    try_candidate,
)
from mmdiverse.evaluation.measurement import ProgressLine, ResultsFile
from mmdiverse.report.markdown import insert_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Try the tap of every backbone of MMPretrain, and '
                                     'of models of timm, and print which levels it supports.')
    parser.add_argument('--match', nargs='+', default=[''], metavar='TEXT',
                        help='only configs and models whose name holds one of these')
    parser.add_argument('--max-parameters', type=float, default=2e9, metavar='N',
                        help='leave larger ones out (default: 2e9, which take 24 GiB)')
    parser.add_argument('--out', type=Path, metavar='FILE.json')
    parser.add_argument('--insert', type=Path, metavar='PAGE',
                        help='Markdown page with the marks of the tables')
    parser.add_argument('--restart', action='store_true', help='forget what --out holds already')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        broken = cover(args)
    except KeyboardInterrupt:
        sys.exit('Interrupted. With --out, the same command goes on from here.')
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    if broken:
        sys.exit(f'{broken} backbones break the contract of taps')


def cover(args: argparse.Namespace) -> int:
    """Try all that the file does not hold yet, and return how many broke the contract."""
    file = ResultsFile(args.out, dict(versions=dict(
        python=platform.python_version(), torch=str(torch.__version__), timm=timm.__version__,
        mmpretrain=mmpretrain.__version__)), args.restart)
    candidates = find_candidates(args.match) + [
        each for each in timm_candidates(TIMM_MODELS)
        if any(text in each.name for text in args.match)]
    progress = ProgressLine(len(candidates))
    for candidate in candidates:
        if candidate.name in file.results:
            progress.skip(1)
            continue
        progress.start(candidate.name)
        result = try_candidate(candidate, args.max_parameters)
        file.add(candidate.name, dict(configs=candidate.configs, **result))
        progress.advance(1)
        gc.collect()
    progress.end()
    results = {each.name: file.results[each.name] for each in candidates}
    tables = coverage_tables(results)
    print('\n\n'.join(tables.values()))
    if args.insert:
        page = args.insert.read_text(encoding='utf-8')
        for name, table in tables.items():
            page = insert_table(page, name, table)
        args.insert.write_text(page, encoding='utf-8')
    return sum('broken' in result for result in results.values())


if __name__ == '__main__':
    main()
