"""What may be meant by a wrong name."""
import pytest

from mmdiverse.spelling import counted, did_you_mean, find_closest

KEYS = ['type', 'on', 'weight', 'layers', 'matrices']


@pytest.mark.parametrize(('given', 'meant'), [
    ('weigth', 'weight'), ('layer', 'layers'), ('Layers', 'layers'), ('matrix', 'matrices'),
    ('loss_weight', 'weight'), ('typ', 'type'), ('ON', 'on'), ('weights_of_it', 'weight'),
])
def test_the_closest_is_meant(given: str, meant: str) -> None:
    assert find_closest(given, KEYS) == meant
    assert did_you_mean(given, KEYS) == f'; did you mean {meant!r}?'


@pytest.mark.parametrize('given', ['temperature', '', None, 3, ['type']])
def test_nothing_is_meant_by_what_is_far_off(given: object) -> None:
    assert find_closest(given, KEYS) is None and did_you_mean(given, KEYS) == ''


@pytest.mark.parametrize(('count', 'words', 'text'), [
    (0, ['image'], '0 images'), (1, ['image'], '1 image'), (2, ['image'], '2 images'),
    (1, ['class', 'classes'], '1 class'), (3, ['class', 'classes'], '3 classes')])
def test_plurals(count: int, words: list[str], text: str) -> None:
    assert counted(count, *words) == text
