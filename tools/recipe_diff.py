"""Set a config against the authors' recipe, or against another config, field by field.

Usage:
    python tools/recipe_diff.py configs/deit/deit-small_diverse_8xb128_in1k.py
    python tools/recipe_diff.py CONFIG --against mmpretrain::deit/deit-small_4xb256_in1k.py

Exits with 1 if a difference has no known reason, or a config cannot be read.
"""
import argparse
import sys

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmengine.config import DictAction

from mmdiverse.config import load_config
from mmdiverse.recipe import AUTHORS, diff_authors, diff_configs
from mmdiverse.spelling import counted


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='List what a config does not share with the recipe of the authors (DeiT and '
        'the diversity terms of Chen et al.), or with another config, and why.')
    parser.add_argument('config', help='path, or package::path')
    parser.add_argument('--against', default='authors', metavar='CONFIG',
                        help="another config, such as a plain twin or MMPretrain's base; default: "
                        'the recipe of the authors')
    parser.add_argument('--gpus', type=int, default=8, help='that will train (default: 8)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='settings to change')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    name = args.config
    try:
        cfg = load_config(name)
        cfg.merge_from_dict(args.cfg_options or {})
        name = args.against
        other = None if name == 'authors' else load_config(name)
    except Exception as error:  # a config is a program, which may raise anything
        print(f'config {name} cannot be read: {type(error).__name__}: {error}', file=sys.stderr)
        return 1
    try:
        if args.against == 'authors':
            differences = diff_authors(cfg, args.gpus)
            print(f'{args.config}, {counted(args.gpus, "GPU")}: '
                  f'{len(AUTHORS) - len(differences)} of {len(AUTHORS)} '
                  f"fields are those of the authors' recipe")
        else:
            differences = diff_configs(cfg, other)
            verb = 'is not that' if len(differences) == 1 else 'are not those'
            print(f'{args.config}: {counted(len(differences), "key")} {verb} of {args.against}')
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for difference in differences:
        print(f'\n{difference.name}\n    here    {difference.ours}\n    there   '
              f'{difference.theirs}\n    why     '
              + (difference.why or ("MMPretrain's own DeiT-S has it so" if difference.inherited
                                    else 'no known reason')
                 + f'; to change it, set `{difference.key}`'))
    return int(any(not difference.why for difference in differences))


if __name__ == '__main__':
    sys.exit(main())
