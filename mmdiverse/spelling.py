"""Words in messages: what somebody may have meant who wrote something else, and plurals."""
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def did_you_mean(given: Any, known: Iterable[str]) -> str:
    """A question to put behind an error about a name that does not exist.

    Args:
        given (Any): What came. Nothing is close to what is no string.
        known (Iterable[str]): The names that there are.

    Returns:
        str: ``"; did you mean 'weight'?"``, or nothing where no name is close.

    Example:
        >>> did_you_mean('layer', ['layers', 'heads'])
        "; did you mean 'layers'?"
    """
    meant = find_closest(given, known)
    return '' if meant is None else f'; did you mean {meant!r}?'


def find_closest(given: Any, known: Iterable[str]) -> str | None:
    """The name that is spelt most like what was given, whatever its case.

    Args:
        given (Any): What came.
        known (Iterable[str]): The names that there are.

    Returns:
        str, optional: One of them, if one is close: some letters are missing, wrong or too many,
        or one of the two begins with the other.
    """
    if not isinstance(given, str) or not given:
        return None
    lowered = {name.lower(): name for name in known}
    wanted = given.lower()
    close = get_close_matches(wanted, lowered, n=1)
    if not close:
        close = [name for name in lowered if name.startswith(wanted) or wanted.startswith(name)]
    return lowered[close[0]] if close else None


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with what it counts.

    Args:
        count (int): How many.
        noun (str): One of them.
        plural (str, optional): Several. Defaults to the noun with an s.

    Example:
        >>> counted(1, 'image'), counted(0, 'image'), counted(2, 'class', 'classes')
        ('1 image', '0 images', '2 classes')
    """
    return f'{count} {noun if count == 1 else plural or f"{noun}s"}'
