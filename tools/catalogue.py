"""Write the table of all registered losses, or of all measures of redundancy, into a page.

Usage:
    python tools/catalogue.py README.md docs/benchmarks/overhead_terms_deit-small_cpu.json
    python tools/catalogue.py docs/audit.md
"""
import argparse
import json
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.report.catalogue import catalogue_table, measures_table
from mmdiverse.report.markdown import insert_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the table of all registered losses, or of all measures of redundancy, '
        'into a page, between its two marks.')
    parser.add_argument('page', type=Path, help='a Markdown file with both marks')
    parser.add_argument('overhead', type=Path, nargs='?',
                        help='for the losses: JSON file of tools/benchmarks/overhead.py --terms; '
                        'without it, the measures are written')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        page = args.page.read_text(encoding='utf-8')
        if args.overhead is None:
            page = insert_table(page, 'measures', measures_table())
        else:
            results = json.loads(args.overhead.read_text(encoding='utf-8'))['results']
            page = insert_table(page, 'catalogue', catalogue_table(results))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    args.page.write_text(page, encoding='utf-8')


if __name__ == '__main__':
    main()
