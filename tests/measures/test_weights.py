"""How redundant matrices are: closed forms, and the same numbers from SciPy and scikit-learn."""
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from mmdiverse.measures import (
    eigenvalue_spread,
    neuron_cosine_max,
    neuron_cosine_mean,
    noise_quarter_energy,
    pca_energy,
    stable_rank,
)
from mmdiverse.records import WeightRecord

SHAPES = [(9, 5), (5, 9), (6, 6)]
every_shape = pytest.mark.parametrize('shape', SHAPES)


def record(matrix: Tensor) -> WeightRecord:
    return WeightRecord(matrix[None])


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def orthonormal(num: int, dim: int) -> Tensor:
    """Orthonormal rows, or columns where those are fewer."""
    q = torch.linalg.qr(randn(max(num, dim), min(num, dim))).Q
    return q if num >= dim else q.mT


@every_shape
def test_energy_agrees_with_sklearn(shape: tuple[int, int]) -> None:
    matrix = randn(*shape) + 1
    expected = PCA().fit(matrix.numpy()).explained_variance_ratio_.cumsum()
    np.testing.assert_allclose(pca_energy(record(matrix))[0].numpy(), expected, rtol=0, atol=1e-12)


@every_shape
@pytest.mark.parametrize('rank', [1, 2, 4])
def test_energy_of_rank_k_reaches_one_at_k(shape: tuple[int, int], rank: int) -> None:
    matrix = randn(shape[0], rank) @ randn(rank, shape[1])
    energy = pca_energy(record(matrix))[0]
    assert int((energy < 1 - 1e-9).sum()) == rank - 1


def test_energy_of_a_simplex_is_a_straight_line() -> None:
    # The centred rows of an identity have M - 1 equal singular values.
    energy = pca_energy(record(torch.eye(5, dtype=torch.float64)))[0]
    torch.testing.assert_close(energy, torch.tensor([.25, .5, .75, 1., 1.]).double())


@pytest.mark.parametrize('shape, tolerance', [
    ((64, 64), 0.004), ((64, 256), 0.004), ((256, 64), 0.004), ((63, 66), 0.004), ((8, 8), 0.015),
    ((4, 16), 0.015), ((64, 2), 0.015), ((2, 64), 0.015), ((64, 1), 1e-9), ((1, 64), 1e-9)])
def test_quarter_energy_of_noise(shape: tuple[int, int], tolerance: float) -> None:
    energy = pca_energy(WeightRecord(randn(6400 // min(shape)**2 + 20, *shape)))
    quarter = energy[:, math.ceil(min(shape) / 4) - 1].mean().item()
    assert noise_quarter_energy(*shape) == pytest.approx(quarter, abs=tolerance)


@pytest.mark.parametrize('shape, expected', [((768, 768), 0.62), ((3072, 768), 0.43),
                                             ((768, 3072), 0.43), ((10**7, 64), 0.25)])
def test_quarter_energy_of_noise_of_known_shapes(shape: tuple[int, int], expected: float) -> None:
    assert noise_quarter_energy(*shape) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize('shape', [(0, 4), (4, 0)])
def test_noise_of_no_size_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'must be at least 1, but got {shape[0]} and {shape[1]}'):
        noise_quarter_energy(*shape)


@every_shape
def test_energy_does_not_change_with_the_mean_row(shape: tuple[int, int]) -> None:
    matrix = randn(*shape)
    torch.testing.assert_close(pca_energy(record(matrix + randn(shape[1]))),
                               pca_energy(record(matrix)))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('shape', [(6, 9), (7, 5), (48, 64)])
def test_energy_of_equal_rows_is_zero(shape: tuple[int, int], dtype: torch.dtype) -> None:
    # What rounding leaves of them must not count.
    row = torch.randn(1, shape[1], dtype=dtype)
    assert not pca_energy(record(row.expand(shape))).any()


@every_shape
def test_stable_rank_agrees_with_scipy(shape: tuple[int, int]) -> None:
    matrix = randn(*shape)
    singular = scipy.linalg.svdvals(matrix.numpy())
    assert stable_rank(record(matrix)).item() == pytest.approx(
        (singular**2).sum() / singular[0]**2, rel=1e-12)


@every_shape
@pytest.mark.parametrize('rank', [1, 2, 4])
def test_stable_rank_of_k_equal_singular_values_is_k(shape: tuple[int, int], rank: int) -> None:
    matrix = 3 * orthonormal(shape[0], rank) @ orthonormal(rank, shape[1])
    assert stable_rank(record(matrix)).item() == pytest.approx(rank, rel=1e-12)


def test_stable_rank_of_a_zero_matrix_is_zero() -> None:
    assert stable_rank(record(torch.zeros(4, 6))).item() == 0


@every_shape
def test_spread_agrees_with_scipy(shape: tuple[int, int]) -> None:
    matrix = randn(*shape)
    eigenvalues = scipy.linalg.eigvalsh((matrix @ matrix.mT).numpy())
    assert eigenvalue_spread(record(matrix)).item() == pytest.approx(
        np.ptp(eigenvalues)**2, rel=1e-10)


def test_spread_of_orthonormal_rows_is_zero() -> None:
    assert eigenvalue_spread(record(orthonormal(5, 9))).item() == pytest.approx(0, abs=1e-12)


def test_spread_of_more_rows_than_columns_reaches_down_to_zero() -> None:
    # W W^T has four eigenvalues 4 and three 0.
    assert eigenvalue_spread(record(2 * orthonormal(7, 4))).item() == pytest.approx(16, rel=1e-12)


def test_spread_grows_with_the_fourth_power() -> None:
    matrix = randn(5, 9)
    assert eigenvalue_spread(record(2 * matrix)).item() == pytest.approx(
        16 * eigenvalue_spread(record(matrix)).item(), rel=1e-12)


@every_shape
def test_cosines_of_neurons_agree_with_sklearn(shape: tuple[int, int]) -> None:
    matrix = randn(*shape)
    cosines = np.abs(cosine_similarity(matrix.numpy()))
    np.fill_diagonal(cosines, 0)
    num = shape[0]
    assert neuron_cosine_mean(record(matrix)).item() == pytest.approx(
        cosines.sum() / (num * (num - 1)), rel=1e-12)
    assert neuron_cosine_max(record(matrix)).item() == pytest.approx(
        cosines.max(1).mean(), rel=1e-12)


@pytest.mark.parametrize('factor', [1., -1., 0.1])
def test_neurons_with_a_twin_have_maximum_one(factor: float) -> None:
    half = randn(4, 6)
    value = neuron_cosine_max(record(torch.cat((half, factor * half)))).item()
    assert value == pytest.approx(1, abs=1e-12)


def test_one_pair_of_twins_among_orthogonal_neurons() -> None:
    matrix = orthonormal(6, 9)
    matrix[1] = matrix[0]
    assert neuron_cosine_max(record(matrix)).item() == pytest.approx(2 / 6, abs=1e-12)


def test_mean_cosine_of_one_pair_of_twins_among_orthogonal_neurons() -> None:
    matrix = orthonormal(6, 9)
    matrix[1] = matrix[0]
    assert neuron_cosine_mean(record(matrix)).item() == pytest.approx(2 / 30, abs=1e-12)


@pytest.mark.parametrize('measure', [neuron_cosine_mean, neuron_cosine_max])
def test_a_zero_neuron_has_no_direction(measure) -> None:
    matrix = torch.ones(5, 4)
    matrix[0] = 0
    expected = 12 / 20 if measure is neuron_cosine_mean else 4 / 5
    assert measure(record(matrix)).item() == pytest.approx(expected, abs=1e-6)
