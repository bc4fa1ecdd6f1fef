"""Settings of the tests of measures."""
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """As an audit measures."""
    with torch.no_grad():
        yield
