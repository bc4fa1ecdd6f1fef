"""How redundant is this vision transformer, from its patches to its weights?

Usage:
    python tools/analysis/audit.py CONFIG CHECKPOINT --images FOLDER
    python tools/analysis/audit.py WORK_DIR --beside OTHER_WORK_DIR --names plain diverse
    python tools/analysis/audit.py timm:deit_small_patch16_224 --images FOLDER

Writes a page to read (audit.html), its figures, audit.json and audit.csv, and diversity terms that
suit each model as a config fragment. Ctrl-C ends it early, with a report of what was seen.
"""
import argparse
import sys
from pathlib import Path

import mmdiverse  # first: it says what to install where a host is missing

# isort: split
from mmdiverse.datasets.audit_images import name_skipped
from mmdiverse.measures import MEASURES
from mmdiverse.report.audit import format_summary


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure how redundant one or several vision transformers are, and write a '
        'page about it. Ctrl-C ends it early, with a report of what was seen.')
    parser.add_argument(
        'model', nargs='+', metavar='MODEL [CHECKPOINT]',
        help="a config (a path, or package::path), the work dir of a run, a name of MMPretrain's "
        'model zoo, or timm:NAME; without a checkpoint, the last one of a work dir, the released '
        'weights of a zoo or timm name, and random weights for a config')
    parser.add_argument('--beside', nargs='+', action='append', default=[],
                        metavar='MODEL [CHECKPOINT]', help='another model; may be repeated')
    parser.add_argument('--names', nargs='+', metavar='NAME', help='one for each model')
    parser.add_argument('--images', metavar='FOLDER',
                        help="a folder of images, searched with its subfolders; 'photos', crops of "
                        "two photographs that come with scikit-learn; or 'digits', the embedded "
                        'digits (default: digits for models trained on them, else photos)')
    parser.add_argument('--num-images', type=int, default=1000,
                        help='at most so many, evenly spaced over a folder (default: 1000)')
    parser.add_argument('--num-subsampled', type=int, default=32,
                        help='of these, for the measures that are too dear for all (default: 32)')
    parser.add_argument('--measures', nargs='+', choices=MEASURES, metavar='MEASURE', default='all',
                        help=f'default: all of {", ".join(MEASURES)}')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--workers', type=int, default=2, help='processes that load images')
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.add_argument('--out', type=Path, help='default: work_dirs/audit/<model>')
    args = parser.parse_args()
    for given in (args.model, *args.beside):
        if len(given) > 2:
            parser.error(f'expected MODEL [CHECKPOINT], but got {" ".join(given)}; name further '
                         'models with --beside')
    return args


def main() -> int:
    args = parse_args()
    models = [(given[0], given[1] if len(given) > 1 else None)
              for given in (args.model, *args.beside)]
    name = args.names[0] if args.names else Path(args.model[0]).stem.replace(':', '_')
    out = args.out or Path('work_dirs') / 'audit' / name
    try:
        result = mmdiverse.audit(
            models, args.images, out, num_images=args.num_images,
            num_subsampled=args.num_subsampled, batch_size=args.batch_size,
            num_workers=args.workers, device=args.device, names=args.names, measures=args.measures)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    except KeyboardInterrupt:
        sys.exit('Interrupted before the first image: there is nothing to report.')
    if result.images['skipped']:
        skipped = name_skipped([file['name'] for file in result.images['skipped']])
        print(f'skipped {skipped}', file=sys.stderr)
    for image in result.images['unreadable']:
        print(f'skipped {image["name"]}: {image["reason"]}', file=sys.stderr)
    print(format_summary(result, out))
    return int(result.images['interrupted'])


if __name__ == '__main__':
    sys.exit(main())
