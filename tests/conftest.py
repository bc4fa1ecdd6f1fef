"""Settings of all tests."""
import os
from collections import OrderedDict

import pytest
from mmengine.registry import DefaultScope

# Before torch is imported. Tests run side by side (pytest -n), on models so small that several
# threads for each would only fight over the cores; runs that a test starts inherit it.
os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture(autouse=True)
def no_default_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test finds no default scope, as in a new process, and leaves none.

    Every Runner sets one for its process: what a test builds would hang on the tests before it.
    """
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
