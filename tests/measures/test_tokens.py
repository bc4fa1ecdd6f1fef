"""How alike tokens are: closed forms, and the same numbers from SciPy and scikit-learn."""
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from mmdiverse.measures import MEASURES, rank_collapse_residual, ridge_error
from mmdiverse.measures.tokens import RIDGE
from mmdiverse.records import TokenRecord

M, D = 6, 8
#: Twins and opposites are reconstructed but for what the penalty takes.
TWIN_ERROR = (RIDGE / (M - 1 + RIDGE))**2
FORMS = ('absolute', 'signed', 'squared')

#: Value of each measure for each kind of tokens.
CLOSED = {
    'identical': dict(token_cosine_absolute=1, token_cosine_signed=1, token_cosine_squared=1,
                      rank_collapse_residual=0, effective_rank=1, ridge_error=TWIN_ERROR),
    'opposite': dict(token_cosine_absolute=1, token_cosine_signed=-1 / (M - 1),
                     token_cosine_squared=1, rank_collapse_residual=1, effective_rank=1,
                     ridge_error=TWIN_ERROR),
    'orthonormal': dict(token_cosine_absolute=0, token_cosine_signed=0, token_cosine_squared=0,
                        rank_collapse_residual=math.sqrt(1 - 1 / M), effective_rank=M,
                        ridge_error=1),
    'zero': dict(token_cosine_absolute=0, token_cosine_signed=0, token_cosine_squared=0,
                 rank_collapse_residual=0, effective_rank=0, ridge_error=0),
}


def tokens_of(kind: str, dim: int = D) -> Tensor:
    """Tokens ``(1, M, dim)``."""
    direction = torch.randn(1, 1, dim, dtype=torch.float64)
    if kind == 'orthonormal':
        return torch.linalg.qr(torch.randn(1, dim, M, dtype=torch.float64)).Q.mT
    signs = {'identical': [1., 1.], 'opposite': [1., -1.], 'zero': [0., 0.]}[kind]
    return direction * torch.tensor(signs * (M // 2), dtype=torch.float64)[:, None]


def with_singular_values(values: list[float], num: int, dim: int) -> Tensor:
    """Random vectors ``(1, num, dim)`` with these singular values."""
    left, right = (torch.linalg.qr(torch.randn(size, len(values), dtype=torch.float64)).Q
                   for size in (num, dim))
    return (left * torch.tensor(values, dtype=torch.float64) @ right.mT)[None]


def measured(name: str, tokens: Tensor) -> float:
    return MEASURES[name].function(TokenRecord(tokens)).item()


@pytest.mark.parametrize('name', CLOSED['zero'])
@pytest.mark.parametrize('kind', CLOSED)
def test_closed_forms(kind: str, name: str) -> None:
    # Singular values that should be 0 are roots of rounded eigenvalues.
    tolerance = 1e-6 if name == 'effective_rank' else 1e-12
    assert measured(name, tokens_of(kind)) == pytest.approx(CLOSED[kind][name], abs=tolerance)


@pytest.mark.parametrize('name', CLOSED['zero'])
@pytest.mark.parametrize('kind', ['identical', 'opposite', 'zero'])
def test_closed_forms_with_more_tokens_than_channels(kind: str, name: str) -> None:
    tolerance = 1e-6 if name == 'effective_rank' else 1e-12
    assert measured(name, tokens_of(kind, M - 2)) == pytest.approx(CLOSED[kind][name],
                                                                   abs=tolerance)


@pytest.mark.parametrize('name', CLOSED['zero'])
@pytest.mark.parametrize('kind', CLOSED)
def test_closed_forms_in_float32(kind: str, name: str) -> None:
    value = measured(name, tokens_of(kind).float())
    assert value == pytest.approx(CLOSED[kind][name], abs=1e-5)


@pytest.mark.parametrize('name', CLOSED['zero'])
def test_the_scale_of_all_tokens_does_not_matter(name: str) -> None:
    tokens = torch.randn(1, M, D, dtype=torch.float64)
    assert measured(name, 7 * tokens) == pytest.approx(measured(name, tokens), rel=1e-12)


@pytest.mark.parametrize('name', CLOSED['zero'])
def test_the_order_of_tokens_does_not_matter(name: str) -> None:
    tokens = torch.randn(1, M, D, dtype=torch.float64)
    assert measured(name, tokens.flip(1)) == pytest.approx(measured(name, tokens), rel=1e-12)


@pytest.mark.parametrize('name', CLOSED['zero'])
def test_a_rotation_of_all_tokens_does_not_matter(name: str) -> None:
    tokens = torch.randn(1, M, D, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    assert measured(name, tokens @ rotation) == pytest.approx(measured(name, tokens), rel=1e-10)


@pytest.mark.parametrize(('form', 'function'), [
    ('absolute', np.abs), ('signed', np.positive), ('squared', np.square)])
def test_cosines_agree_with_sklearn(form: str, function: Callable) -> None:
    tokens = torch.randn(1, 9, 5, dtype=torch.float64)
    cosines = function(cosine_similarity(tokens[0].numpy()))
    expected = cosines[~np.eye(9, dtype=bool)].mean()
    assert measured(f'token_cosine_{form}', tokens) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('form', FORMS)
def test_a_zero_token_has_cosine_zero_with_all(form: str) -> None:
    tokens = tokens_of('identical')
    tokens[:, 2] = 0
    # Of 30 ordered pairs, 20 are without it.
    assert measured(f'token_cosine_{form}', tokens) == pytest.approx(20 / 30, abs=1e-12)


def test_residual_agrees_with_numpy() -> None:
    tokens = torch.randn(1, 9, 5, dtype=torch.float64) + 1
    rows = tokens[0].numpy()
    expected = scipy.linalg.norm(rows - rows.mean(0)) / scipy.linalg.norm(rows)
    assert rank_collapse_residual(TokenRecord(tokens)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('shape', [(9, 5), (5, 9), (6, 6)])
def test_effective_rank_agrees_with_scipy(shape: tuple[int, int]) -> None:
    tokens = torch.randn(1, *shape, dtype=torch.float64)
    expected = math.exp(scipy.stats.entropy(scipy.linalg.svdvals(tokens[0].numpy())))
    assert measured('effective_rank', tokens) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('shape', [(9, 5), (5, 9)])
@pytest.mark.parametrize('rank', [1, 3, 5])
def test_effective_rank_of_equal_singular_values_is_their_number(shape: tuple[int, int], rank: int
                                                                 ) -> None:
    tokens = with_singular_values([2.] * rank, *shape)
    assert measured('effective_rank', tokens) == pytest.approx(rank, rel=1e-5)


def test_effective_rank_of_one_and_three() -> None:
    # Shares 1/4 and 3/4.
    tokens = with_singular_values([1., 3.], 2, 5)
    assert measured('effective_rank', tokens) == pytest.approx(4 / 3**0.75, rel=1e-12)


@pytest.mark.parametrize('shape', [(9, 5), (5, 9), (6, 6)])
@pytest.mark.parametrize('ridge', [RIDGE, 1.])
def test_ridge_error_agrees_with_sklearn(shape: tuple[int, int], ridge: float) -> None:
    tokens = torch.randn(1, *shape, dtype=torch.float64)
    rows, errors = tokens[0].numpy(), []
    for i, row in enumerate(rows):
        others = np.delete(rows, i, axis=0).T
        model = Ridge(alpha=ridge * np.square(rows).sum(1).mean(), fit_intercept=False)
        left = row - model.fit(others, row).predict(others)
        errors.append(left @ left / (row @ row))
    assert ridge_error(TokenRecord(tokens), ridge).item() == pytest.approx(np.mean(errors),
                                                                           rel=1e-10)


def test_ridge_error_of_tokens_at_equal_angles() -> None:
    # G = (1 - c) I + c 11^T: all weights are equal, w = c / (1 - c + (M - 1) c + penalty).
    c = 0.3
    gram = (1 - c) * torch.eye(M, dtype=torch.float64) + c
    weight = c / (1 + (M - 2) * c + RIDGE)
    expected = 1 - 2 * (M - 1) * c * weight + weight**2 * (M - 1) * (1 + (M - 2) * c)
    tokens = torch.linalg.cholesky(gram)[None]
    assert measured('ridge_error', tokens) == pytest.approx(expected, rel=1e-10)


def test_ridge_error_falls_with_a_twin() -> None:
    tokens = tokens_of('orthonormal')
    tokens[:, 1] = tokens[:, 0]
    twin = (RIDGE / (1 + RIDGE))**2
    assert measured('ridge_error', tokens) == pytest.approx((2 * twin + M - 2) / M, rel=1e-10)


def test_ridge_error_counts_a_zero_token_as_zero() -> None:
    tokens = tokens_of('orthonormal')
    tokens[:, 2] = 0
    assert measured('ridge_error', tokens) == pytest.approx((M - 1) / M, rel=1e-10)


def test_a_dear_measure_is_found_in_float64() -> None:
    # In float32 the smallest of these singular values would be lost: their squares are.
    tokens = with_singular_values([1.] * 4 + [1e-4] * 2, 6, 9)
    expected = math.exp(scipy.stats.entropy(scipy.linalg.svdvals(tokens[0].float().numpy().astype(
        np.float64))))
    assert measured('effective_rank', tokens.float()) == pytest.approx(expected, rel=1e-9)
