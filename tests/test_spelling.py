"""What may be meant by a wrong name."""
import pytest

from mmdiverse.spelling import did_you_mean, find_closest

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
