"""Tables in Markdown pages."""
from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        head (Sequence[str]): Titles of the columns.
        rows (Iterable[Sequence[str]]): The cells of each row.

    Returns:
        str: The table, with ``|`` in cells escaped.
    """
    lines = [[cell.replace('|', '\\|') for cell in row] for row in [head, *rows]]
    lines.insert(1, ['---'] * len(head))
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def aligned_table(rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """A Markdown table that is a table in a terminal too.

    Args:
        rows (Sequence[Sequence[str]]): First the titles.
        labels (int): How many columns, the first ones, are of text; the others are of numbers.
            Defaults to 1.
    """
    rule = (*['---'] * labels, *['---:'] * (len(rows[0]) - labels))
    rows = [rows[0], rule, *rows[1:]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(
        '| ' + ' | '.join(cell.ljust(width) if column < labels else cell.rjust(width)
                          for column, (cell, width) in enumerate(zip(row, widths))) + ' |'
        for row in rows)


def insert_table(page: str, name: str, table: str) -> str:
    """Replace what stands between the two marks of a table in a page.

    Args:
        page (str): With the marks ``<!-- name: begin -->`` and ``<!-- name: end -->``.
        name (str): Of the table.
        table (str): What to put there.

    Returns:
        str: The new page.

    Raises:
        ValueError: If the page lacks the marks.
    """
    marks = [f'<!-- {name}: {end} -->' for end in ('begin', 'end')]
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f'the page must hold {marks[0]} and {marks[1]}')
    return f'{before}{begin}\n{table}\n{end}{after}'
