"""Compare mmdiverse with values and gradients that the authors' own functions gave.

Usage:
    python tools/parity.py FILE.npz
"""
import argparse
import sys

from mmdiverse.evaluation.parity import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run every case of a file of reference values through the registered losses, '
        'the mixing and the real classifier with its hook. Exits 1 if one is above its tolerance.')
    parser.add_argument('file', help='.npz file with arrays <case>/value, <case>/<input>, '
                        '<case>/grad_<input>')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        return compare(args.file)
    except (KeyError, OSError, ValueError) as error:
        # 2, so that a file that cannot be compared is told from one that differs.
        print(f'cannot compare {args.file}: {type(error).__name__}: {error}', file=sys.stderr)
        return 2


def compare(file: str) -> int:
    """Print a block of lines per case, and return 1 if one is above its tolerance."""
    failed = unknown = compared = 0
    print(f'{"case":26} {"value":>10} {"gradients":>10} {"tolerance":>10}')
    for result in check_file(file):
        if result.unknown:
            unknown += 1
            print(f'{result.case:26} not known')
            continue
        compared += 1
        failed += not result.passed
        value = result.errors['value']
        worst = [error for name, error in result.errors.items() if name != 'value']
        print(f'{result.case:26} {value:10.1e} {max(worst):10.1e} {result.tolerance:10.0e}'
              if worst else f'{result.case:26} {value:10.1e} {"-":>10} {result.tolerance:10.0e}',
              '' if result.passed else 'ABOVE')
        for name, error in result.errors.items():
            if name != 'value':
                print(f'    {name:44} {error:10.1e}')
    print(f'{compared} compared, {failed} above tolerance, {unknown} not known')
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
