"""Ways to draw that several rooms of the world share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# What an array holds, for readers: its own types of indexing and choosing are too wide to check.
Ints = npt.NDArray[Any]
Floats = npt.NDArray[Any]
Bools = npt.NDArray[Any]


def distinct(rng: np.random.Generator, rows: int, among: int, count: int) -> Ints:
    """[rows, count] numbers below `among`, in each row no two alike."""
    return rng.random((rows, among)).argsort(axis=1)[:, :count]


def by_weight(rng: np.random.Generator, weights: Floats) -> Ints:
    """[...] a place on the last axis of [..., K] for each row, in proportion to its weight.

    >>> by_weight(np.random.default_rng(0), np.array([[0.0, 2.0], [1.0, 0.0]]))
    array([1, 0])
    """
    reached = np.cumsum(weights, axis=-1)
    drawn = rng.random((*weights.shape[:-1], 1)) * reached[..., -1:]
    # Rounding may leave what was drawn at the very end.
    return np.minimum((reached <= drawn).sum(axis=-1), weights.shape[-1] - 1)


def logistic(log_odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-log_odds))


def standardised(values: Floats, among: Bools) -> Floats:
    """(x - mean) / standard deviation of those `among`; differences only where all are equal."""
    centred = values - values[among].mean()
    spread = values[among].std()
    return centred / spread if spread else centred
