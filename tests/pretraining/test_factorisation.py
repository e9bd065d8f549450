"""The factorisation against the matrix that it factorises."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from piano_tf.pretraining.factorisation import factorise


def random_counts(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Counts with an empty first row and column, as id 0, padding, has them."""
    counts = np.random.default_rng(seed).poisson(0.7, (rows, columns))
    counts[0] = counts[:, 0] = 0
    return counts


def low_rank(rank: int) -> np.ndarray:
    """Counts n with log(1 + n) of that rank: a block of its own size for each."""
    counts = np.zeros((9, 8))
    for block in range(rank):
        counts[1 + 2 * block : 3 + 2 * block, 1 + block] = 3 + block
    return counts


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("width", [4, 7, 20])
def test_a_matrix_of_low_rank_is_reproduced(rank: int, width: int) -> None:
    """Whether or not there is more room than rank, and more than the matrix has columns."""
    counts = low_rank(rank)
    matrix = np.log1p(counts)
    assert np.linalg.matrix_rank(matrix) == rank
    rows, columns = factorise(sp.csr_matrix(counts), width, damping=0.0, seed=0)
    assert rows.shape == (9, width)
    assert columns.shape == (8, width)
    np.testing.assert_allclose(rows @ columns.T, matrix, atol=1e-9)
    used = np.abs(rows).max(axis=0) > 1e-6
    assert used.sum() == rank
    assert not columns[:, ~used].any()


@pytest.mark.parametrize("damping", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("width", [1, 3, 9])
def test_it_is_the_best_approximation_of_the_damped_counts(damping: float, width: int) -> None:
    """Against NumPy's dense decomposition: the same products of rows and columns."""
    counts = random_counts(12, 10)
    matrix = np.log1p(counts)
    of_row, of_column = (
        np.maximum(matrix.sum(axis, keepdims=True), 1e-300) ** damping for axis in (1, 0)
    )
    u, s, v = np.linalg.svd(matrix / of_row / of_column)
    expected = (u[:, :width] * s[:width]) @ v[:width]
    rows, columns = factorise(sp.csr_matrix(counts), width, damping=damping, seed=0)
    np.testing.assert_allclose(rows @ columns.T, expected, atol=1e-6)
    for vectors in (rows, columns):  # each side has the square root of the singular values
        found = np.sort(np.linalg.norm(vectors, axis=0))[::-1]
        np.testing.assert_allclose(found, np.sqrt(s[:width]), rtol=1e-6)


def test_what_never_occurs_is_exactly_zero() -> None:
    counts = random_counts(30, 20)
    counts[[4, 7]] = 0
    counts[:, 5] = 0
    rows, columns = factorise(sp.csr_matrix(counts), 6, damping=0.25, seed=0)
    assert set(np.flatnonzero(~rows.any(axis=1))) == {0, 4, 7}
    assert set(np.flatnonzero(~columns.any(axis=1))) == {0, 5}


@pytest.mark.parametrize("shape", [(5, 4), (1, 4), (1, 1)])
def test_nothing_at_all_is_zero(shape: tuple[int, int]) -> None:
    rows, columns = factorise(sp.csr_matrix(shape), 3, damping=0.25, seed=0)
    assert rows.shape == (shape[0], 3)
    assert columns.shape == (shape[1], 3)
    assert not rows.any()
    assert not columns.any()


def test_the_seed_settles_everything_and_the_counts_stay_as_they_are() -> None:
    counts = sp.csr_matrix(random_counts(12, 10))
    before = counts.copy()
    first, second = (factorise(counts, 3, damping=0.25, seed=5) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (counts != before).nnz == 0


def test_a_repeated_count_is_a_larger_one() -> None:
    """Pairs in coordinates, one of them three times, as interactions come."""
    pairs = (np.array([1, 1, 1, 2]), np.array([1, 1, 1, 2]))
    apart = sp.csr_matrix((np.ones(4), pairs), shape=(4, 4))
    rows, columns = factorise(apart, 2, damping=0.0, seed=0)
    expected = np.diag([0, np.log(4), np.log(2), 0])
    np.testing.assert_allclose(rows @ columns.T, expected, atol=1e-9)
