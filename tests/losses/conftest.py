"""Settings of the tests of losses."""
import pytest
import torch


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)
