"""Write the digit scenes, a small data set for detection and segmentation that needs no download.

Usage:
    python tools/downstream/make_digit_scenes.py
    python tools/downstream/make_digit_scenes.py --out data/more_scenes --train 1000 --seed 1
"""
import argparse
import sys

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.datasets.digit_scenes import write_digit_scenes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write images of several handwritten digits with annotations as in COCO, for '
        'MMDetection, and label maps, for MMSegmentation.')
    parser.add_argument('--out', default='data/digit_scenes', metavar='FOLDER',
                        help='where to write it (%(default)s)')
    parser.add_argument('--train', type=int, default=200, help='scenes for training (%(default)s)')
    parser.add_argument('--val', type=int, default=60, help='scenes for validation (%(default)s)')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of all that is drawn (%(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        folder = write_digit_scenes(args.out, args.train, args.val, args.seed)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    print(f'{folder}: {args.train} scenes in train/, {args.val} in val/; boxes and masks in '
          'annotations/, label maps in masks/')


if __name__ == '__main__':
    main()
