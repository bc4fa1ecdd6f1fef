"""Convert weights of ViT, DeiT or Swin from timm's or the authors' keys to MMPretrain's, or back.

Usage:
    python tools/convert_checkpoint.py deit_small_patch16_224.pth deit-small_mmpretrain.pth
    python tools/convert_checkpoint.py work_dirs/diverse/epoch_300.pth diverse_timm.safetensors
"""
import argparse
import sys

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.conversion import convert_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write a checkpoint with MMPretrain\'s keys from one with timm\'s, or one with '
        'timm\'s from one with MMPretrain\'s; its keys tell which it is.')
    parser.add_argument('source', help='path or URL of a checkpoint (.pth, .bin, .safetensors)')
    parser.add_argument('target', help='where to write it (.pth or .safetensors)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        converted = convert_file(args.source, args.target)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    print(f'{converted.family}: {len(converted.state)} tensors with the keys of '
          f'{converted.layout} are in {args.target}')


if __name__ == '__main__':
    main()
