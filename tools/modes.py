"""Write the table of the modes of training into a page.

Usage, in an environment of each host stack:
    python -m pytest -n 2 tests/robustness --junitxml=openmmlab.xml
and then:
    python tools/modes.py docs/robustness.md openmmlab.xml onedl.xml --out docs/modes.json
"""
import argparse
import json
import sys
from pathlib import Path
from xml.etree.ElementTree import ParseError

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.report.markdown import insert_table
from mmdiverse.report.modes import modes_table, read_verdicts


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the table of the modes of training into a page, between its two marks.')
    parser.add_argument('page', type=Path, help='a Markdown file with both marks')
    parser.add_argument('reports', type=Path, nargs='+',
                        help='JUnit reports of tests/robustness, named after their host stacks')
    parser.add_argument('--out', type=Path, help='JSON file to write as well')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        stacks = {report.stem: read_verdicts(report) for report in args.reports}
        page = insert_table(args.page.read_text(encoding='utf-8'), 'modes', modes_table(stacks))
    except (OSError, ValueError, ParseError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    args.page.write_text(page, encoding='utf-8')
    if args.out is not None:
        args.out.write_text(json.dumps(stacks, indent=1, ensure_ascii=False) + '\n',
                            encoding='utf-8')


if __name__ == '__main__':
    main()
