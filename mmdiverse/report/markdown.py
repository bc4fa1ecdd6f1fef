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
