"""Write the table of all registered losses into a page.

Usage:
    python tools/catalogue.py README.md docs/benchmarks/overhead_terms_deit-small_cpu.json
"""
import argparse
import json
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.report.catalogue import catalogue_table
from mmdiverse.report.markdown import insert_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the table of all registered losses into a page, between its two marks.')
    parser.add_argument('page', type=Path, help='a Markdown file with both marks')
    parser.add_argument('overhead', type=Path,
                        help='JSON file of tools/benchmarks/overhead.py --terms')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        results = json.loads(args.overhead.read_text(encoding='utf-8'))['results']
        page = insert_table(args.page.read_text(encoding='utf-8'), 'catalogue',
                            catalogue_table(results))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    args.page.write_text(page, encoding='utf-8')


if __name__ == '__main__':
    main()
