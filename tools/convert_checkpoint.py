"""Convert weights of ViT, DeiT or Swin from timm's or the authors' keys to MMPretrain's, or back.

Usage:
    python tools/convert_checkpoint.py deit_small_patch16_224.pth deit-small_mmpretrain.pth
    python tools/convert_checkpoint.py work_dirs/diverse/epoch_300.pth diverse_timm.safetensors
    python tools/convert_checkpoint.py ema:timm_run/last.pth.tar mae.pth --head LinearClsHead
"""
import argparse
import sys

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.conversion import HEADS, convert_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write a checkpoint with MMPretrain\'s keys from one with timm\'s, or one with '
        'timm\'s from one with MMPretrain\'s; its keys tell which it is.')
    parser.add_argument('source', help='path or URL of a checkpoint (.pth, .bin, .safetensors); '
                        'ema:PATH takes its averaged weights, model:PATH those that were trained')
    parser.add_argument('target', help='where to write it (.pth or .safetensors)')
    parser.add_argument('--head', choices=HEADS,
                        help="to MMPretrain: the head of a ViT's config, LinearClsHead where "
                        'patches are averaged as after MAE (default: VisionTransformerClsHead)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        converted = convert_file(args.source, args.target, args.head)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    print(f'{converted.family}: {len(converted.state)} tensors with the keys of '
          f'{converted.layout} are in {args.target}')
    if converted.left_out:
        print(f'left out, since they are beside the model: {", ".join(converted.left_out)}')


if __name__ == '__main__':
    main()
