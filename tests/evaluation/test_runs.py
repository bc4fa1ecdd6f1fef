"""Trainings of a comparison, without training."""
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from mmdiverse.evaluation.runs import scalar_metrics


@pytest.mark.parametrize('value, number', [
    (50, 50.), (50.5, 50.5), (True, 1.), (np.float32(.5), .5), (np.int64(3), 3.),
    (np.bool_(True), 1.), (torch.tensor(.5), .5), (torch.tensor([2]), 2.), (np.array(.5), .5),
    (np.array([[4.]]), 4.), (math.inf, math.inf)])
def test_single_numbers_are_metrics(value: Any, number: float) -> None:
    found = scalar_metrics({'name': value})
    assert found == {'name': number} and type(found['name']) is float


@pytest.mark.parametrize('value', [
    [1., 2.], [1.], (1.,), {'a': 1.}, 'text', '3', None, torch.zeros(3, 3), torch.zeros(0),
    np.zeros(2), np.array('text'), 1j, np.complex64(1), torch.tensor(1j), Decimal(1)])
def test_all_else_is_left_out(value: Any) -> None:
    assert scalar_metrics({'before': 1., 'name': value, 'after': 2.}) == {'before': 1., 'after': 2.}


def test_nan_is_not_hidden() -> None:
    assert math.isnan(scalar_metrics({'name': torch.tensor(math.nan)})['name'])
