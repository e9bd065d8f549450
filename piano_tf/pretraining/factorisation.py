"""Two kinds of things that occur together, as vectors: a truncated singular value decomposition."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.linalg


def factorise(
    counts: scipy.sparse.csr_matrix, width: int, *, damping: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of rows and columns whose products approximate damped counts.

    M_rc = log(1 + n_rc) / (d_r d_c)^damping, where d are the sums of log(1 + n) of a row and of a
    column [ours]. M = U S V^T in its `width` largest singular values; rows are U sqrt(S), columns
    V sqrt(S).

    Args:
      counts: [R, C] how often a row occurred with a column.
      width: P.
      damping: 0 keeps the weight of frequent rows and columns, 1/2 takes it all.
      seed: Of the solver's start.

    Returns:
      [R, P] and [C, P]; 0 for what never occurs, and in directions beyond the matrix's rank.
    """
    matrix = scipy.sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    matrix.data = np.log1p(matrix.data)
    of_row, of_column = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
    matrix = _scale(of_row, damping) @ matrix @ _scale(of_column, damping)
    rows, columns = np.zeros([len(of_row), width]), np.zeros([len(of_column), width])
    rank = min(width, min(matrix.shape) - 1)
    if rank > 0 and matrix.nnz:
        start = np.random.default_rng(seed).normal(size=min(matrix.shape))
        u, s, v = scipy.sparse.linalg.svds(matrix, k=rank, v0=start)
        s = np.sqrt(np.where(s > 1e-9 * s.max(), s, 0.0))
        rows[:, :rank], columns[:, :rank] = u * s, v.T * s
    rows[of_row == 0], columns[of_column == 0] = 0, 0  # exactly, whatever the solver left
    return rows, columns


def _scale(sums: np.ndarray, damping: float) -> scipy.sparse.dia_matrix:
    return scipy.sparse.diags(np.where(sums > 0, sums, 1.0) ** -damping)
