"""Say of every weight of a detector's or segmentor's backbone whether a checkpoint fills it.

Usage:
    python tools/downstream/check_transfer.py \
        configs/downstream/det/mask-rcnn_swin-tiny_fpn_1x_coco.py ema:work_dirs/NAME/epoch_300.pth
"""
import argparse
import sys
from collections import Counter

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.config import load_config
from mmdiverse.transfer import FAILURES, STATUSES, check_transfer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(
        'Compare the backbone of a detector or segmentor with the checkpoint of a classifier, '
        'weight by weight. The exit code is 1 if one is missing, has another shape, or has no '
        'place.'))
    parser.add_argument('config', help='of MMDetection or MMSegmentation: a path, or package::path')
    parser.add_argument('checkpoint', nargs='?', help=(
        'of MMPretrain; ema:PATH takes the averaged weights that EMAHook saved, model:PATH those '
        'that were trained (default: that of `model.backbone.init_cfg`)'))
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        fits = check_transfer(load_config(args.config), args.checkpoint)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    width = max(len(fit.name) for fit in fits)
    for fit in fits:
        shapes = [str(shape) for shape in (fit.source_shape, fit.shape) if shape is not None]
        print(f'{fit.status:<10}  {fit.name:<{width}}  {" -> ".join(dict.fromkeys(shapes))}')
    counts = Counter(fit.status for fit in fits)
    print(', '.join(f'{counts[status]} {status}' for status in STATUSES))
    return int(any(counts[status] for status in FAILURES))


if __name__ == '__main__':
    sys.exit(main())
