"""Lists whose clicks are examinations and relevances, of which the truth is known."""

from __future__ import annotations

import numpy as np

RANKS = 8
THETA = (1.0 + np.arange(RANKS)) ** -0.7


def clicks_of(
    seed: int, lists: int, pairs: int, jitter: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists of 8 pairs drawn from `pairs`, better ones higher but for some jitter.

    Returns:
      clicks and pair [L, 8] by logged rank, gamma [pairs].
    """
    rng = np.random.default_rng(seed)
    gamma = rng.beta(1.2, 3, pairs)
    pair = rng.random((lists, pairs)).argsort(axis=1)[:, :RANKS]
    first_stage = np.log(gamma[pair]) + jitter * rng.normal(size=pair.shape)
    pair = np.take_along_axis(pair, np.argsort(-first_stage, axis=1), axis=1)
    return rng.random(pair.shape) < THETA * gamma[pair], pair, gamma
