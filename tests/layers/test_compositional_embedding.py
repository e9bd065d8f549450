"""Vectors of two small tables: whose they are, and what they cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from check_layer import check_layer
from layer_samples import randomised

from piano_tf.layers import CompositionalEmbedding
from piano_tf.layers.compositional_embedding import table_rows


def test_it_is_a_layer() -> None:
    check_layer(
        CompositionalEmbedding,
        {"rows": 12, "units": 3, "stddev": 0.5},
        {"ids": tf.constant([[0, 4, 11], [5, 6, 7], [8, 9, 10], [1, 2, 3]], tf.int64)},
        weights=2,
    )


def test_a_vector_is_the_product_of_its_quotients_and_its_remainders() -> None:
    layer = CompositionalEmbedding(rows=10, units=2)
    layer(tf.constant([0]))
    randomised(layer)
    found = layer(tf.range(10)).numpy()
    for number in range(10):
        quotient, remainder = divmod(number, 4)
        expected = layer.quotient[quotient] * layer.remainder[remainder]
        np.testing.assert_array_equal(found[number], expected)


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 10, 16, 17, 100])
def test_every_id_has_a_pair_of_its_own(rows: int) -> None:
    quotients, remainders = table_rows(rows)
    pairs = {divmod(number, remainders) for number in range(rows)}
    assert len(pairs) == rows
    assert pairs <= set(itertools.product(range(quotients), range(remainders)))


@pytest.mark.parametrize("rows", [100_000_001, 10_000_000_001])
def test_two_tables_have_about_two_square_roots_of_rows(rows: int) -> None:
    assert 0 <= sum(table_rows(rows)) - 2 * rows**0.5 < 2


def test_it_starts_as_wide_as_a_full_table() -> None:
    tf.keras.utils.set_random_seed(0)
    ids = tf.range(40_000)
    full = tf.keras.layers.Embedding(40_000, 16)(ids).numpy().std()
    parts = CompositionalEmbedding(40_000, 16)(ids).numpy()
    np.testing.assert_allclose(parts.std(), full, rtol=0.05)
    np.testing.assert_allclose(parts.mean(), 0, atol=full / 20)
