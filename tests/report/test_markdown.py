"""Tables in Markdown pages."""
import pytest

from mmdiverse.report.markdown import insert_table, markdown_table

BEGIN, END = '<!-- name: begin -->', '<!-- name: end -->'


def test_a_table_has_a_line_per_row() -> None:
    assert markdown_table(('a', 'b'), [('1', '|x|')]) == \
        '| a | b |\n| --- | --- |\n| 1 | \\|x\\| |'


def test_table_replaces_what_stands_between_the_marks() -> None:
    page = f'a\n{BEGIN}\nold\n{END}\nb\n'
    assert insert_table(page, 'name', 'new') == f'a\n{BEGIN}\nnew\n{END}\nb\n'


@pytest.mark.parametrize('page', ['', BEGIN, END])
def test_a_page_without_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match='the page must hold <!-- name: begin -->'):
        insert_table(page, 'name', 'new')
