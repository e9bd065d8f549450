"""Pre-trained vectors: each listener's are looked up in the tables learnt without that listener."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.data.encoding import Encoder
from piano_tf.layers import PretrainedVectors

P, FOLDS = 3, 2


@pytest.fixture(scope="module")
def tables(encoder: Encoder) -> dict[str, np.ndarray]:
    """Random, with row 0, padding, 0 as `pretrain` leaves it."""
    rng, rows = np.random.default_rng(1), encoder.inputs.rows
    found = {
        name: np.float32(rng.normal(size=(FOLDS, rows[vocabulary], P)))
        for name, vocabulary in (("taste", "item_id"), ("intent", "item_id"), ("words", "query"))
    }
    for table in found.values():
        table[:, 0] = 0
    return found


@pytest.fixture(scope="module")
def layer(encoder: Encoder, tables) -> PretrainedVectors:
    made = PretrainedVectors(encoder.inputs, P, FOLDS)
    made.assign(tables)
    return made


def test_it_is_its_formula(layer: PretrainedVectors, tables, batch) -> None:
    x = {name: values.numpy() for name, values in batch.items()}
    fold = x["user_id"] % FOLDS
    assert set(fold) == set(range(FOLDS))

    def query(b: int, tokens: np.ndarray) -> np.ndarray:
        total = sum((tables["words"][fold[b], token] for token in tokens), np.zeros(P))
        length = np.linalg.norm(total)
        return total / length if length else total

    found = layer(batch)
    for b in range(len(fold)):
        for name, column in (("", "item_id"), ("past_", "history_item_id")):
            for space in ("taste", "intent"):
                expected = tables[space][fold[b], x[column][b]]
                np.testing.assert_array_equal(getattr(found, f"{name}{space}")[b], expected)
        np.testing.assert_allclose(found.query[b], query(b, x["query"][b]), rtol=1e-5, atol=1e-6)
        expected = [query(b, tokens) for tokens in x["history_query"][b]]
        np.testing.assert_allclose(found.past_query[b], expected, rtol=1e-5, atol=1e-6)


def test_padding_and_empty_queries_are_zero(layer: PretrainedVectors, batch) -> None:
    empty = {name: tf.zeros_like(values) for name, values in batch.items()}
    empty["user_id"] = batch["user_id"]
    assert not any(np.any(vectors) for vectors in layer(empty))
    none = {n: x[:, :0] if n.startswith("history_") else x for n, x in batch.items()}
    assert layer(none).past_taste.shape == (len(batch["user_id"]), 0, P)


def test_a_listener_reads_no_other_fold(layer: PretrainedVectors, tables, batch) -> None:
    fold = batch["user_id"].numpy() % FOLDS
    before = layer(batch)
    layer.assign({name: table * [[[1]], [[np.nan]]] for name, table in tables.items()})
    after = layer(batch)
    layer.assign(tables)
    for one, other in zip(after, before, strict=True):
        np.testing.assert_array_equal(one[fold == 0], other[fold == 0])
        assert np.isnan(one[fold == 1]).any()


def test_all_are_zero_before_any_are_learnt(encoder: Encoder, batch) -> None:
    fresh = PretrainedVectors(encoder.inputs, P, FOLDS)
    assert not any(np.any(vectors) for vectors in fresh(batch))


def test_they_are_frozen_but_saved(layer: PretrainedVectors, encoder: Encoder, batch) -> None:
    assert not layer.trainable_weights
    again = PretrainedVectors.from_config(layer.get_config())
    again.set_weights(layer.get_weights())
    for one, other in zip(again(batch), layer(batch), strict=True):
        np.testing.assert_array_equal(one, other)


def test_tables_of_another_shape_are_refused(layer: PretrainedVectors, tables) -> None:
    with pytest.raises(ValueError, match=r"[Ss]hape"):
        layer.assign({**tables, "words": tables["words"][:, :-1]})
