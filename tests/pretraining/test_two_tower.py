"""The two towers: what is chosen together comes to lie together."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.config import PretrainingConfig
from piano_tf.pretraining.two_tower import train_towers

CONFIG = PretrainingConfig(method="two_tower", width=4, epochs=30, batch_size=64)
ROWS, ITEMS = 21, 13  # of either table; id 0 pads, the last of either is never seen


def communities(seed: int, count: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Listeners 1 to 19 choose among items 1 to 10 of their own parity."""
    rng = np.random.default_rng(seed)
    left = rng.integers(1, ROWS - 1, count)
    return left[:, np.newaxis], 1 + (left + 1) % 2 + 2 * rng.integers(0, 5, count)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trained() -> tuple[np.ndarray, np.ndarray]:
    return train_towers(*communities(0), ROWS, ITEMS, CONFIG, seed=0)


def test_two_communities_are_told_apart(trained) -> None:
    lefts, rights = (
        unit(table[1:end]) for table, end in zip(trained, (ROWS - 1, ITEMS - 2), strict=True)
    )
    of_left, of_item = np.arange(1, ROWS - 1) % 2, np.arange(1, ITEMS - 2) % 2
    for vectors, parity in ((lefts, of_left), (rights, of_item)):
        for cosines, own in zip(vectors @ rights.T, parity, strict=True):
            assert cosines[of_item == own].min() > cosines[of_item != own].max() + 0.2


def test_what_never_occurs_is_zero(trained) -> None:
    lefts, rights = trained
    left, items = communities(0)
    assert lefts.shape == (ROWS, 4)
    assert rights.shape == (ITEMS, 4)
    assert set(np.flatnonzero(lefts.any(axis=1))) == set(np.unique(left))
    assert set(np.flatnonzero(rights.any(axis=1))) == set(np.unique(items))


def test_the_seed_alone_settles_everything(trained) -> None:
    """Whatever random numbers the program has used before, and whatever seed it has set."""
    for seed in (1, 2):
        tf.keras.utils.set_random_seed(seed)
        found = train_towers(*communities(0), ROWS, ITEMS, CONFIG, seed=0)
        for one, other in zip(found, trained, strict=True):
            np.testing.assert_array_equal(one, other)
    other, _ = train_towers(*communities(0), ROWS, ITEMS, CONFIG, seed=1)
    assert np.abs(other - trained[0]).max() > 0.1


def test_several_ids_count_as_their_sum_and_padding_as_nothing() -> None:
    """A word that says nothing, beside one that says all: the second decides."""
    left, items = communities(3)
    telling = 1 + left % 2
    said = np.column_stack([telling, np.full(len(items), 3), np.zeros(len(items), int)])
    words, rights = train_towers(said, items, 4, ITEMS, CONFIG, seed=0)
    assert not words[0].any()
    queries = {p: unit((words[1 + p] + words[3])[np.newaxis])[0] for p in (0, 1)}
    for item in np.unique(items):
        vector = unit(rights[[item]])[0]
        assert queries[item % 2] @ vector > queries[1 - item % 2] @ vector + 0.5
