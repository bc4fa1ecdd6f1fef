"""Settings of the tests of patch-level mixing."""
from collections.abc import Iterator

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    """Configs are MMPretrain's, whatever ran before in this process."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield
