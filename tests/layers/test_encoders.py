"""Queries, items and listeners as vectors, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from layer_samples import D, dense, normal_of, randomised

from piano_tf.data.encoding import Encoder
from piano_tf.features import Axis
from piano_tf.layers import ItemEncoder, QueryEncoder, UserEncoder
from piano_tf.layers.pretrained_vectors import Pretrained
from piano_tf.masks import mask_of

normal = normal_of(12)
P, M = 3, 7  # widths of pre-trained vectors and of match features

# --- queries ---

TOKENS = tf.constant([[[5, 1, 5, 0], [0, 0, 0, 0]], [[2, 0, 0, 0], [1, 2, 3, 4]]])


def test_query_is_the_mean_of_its_real_tokens() -> None:
    encoder = QueryEncoder(rows=6, units=D)
    found = encoder(TOKENS)
    table = encoder.embedding.embeddings.numpy()
    expected = [
        [(2 * table[5] + table[1]) / 3, np.zeros(D)],
        [table[2], table[1:5].mean(axis=0)],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert not encoder.projection.weights


def test_query_has_its_pretrained_vector_added() -> None:
    encoder = QueryEncoder(rows=6, units=D)
    vectors = normal(2, 2, P)
    expected = encoder(TOKENS) + dense(vectors.numpy(), _built(encoder, vectors).projection)
    np.testing.assert_allclose(encoder(TOKENS, vectors), expected, rtol=1e-5, atol=1e-6)


def _built(encoder: QueryEncoder, vectors: tf.Tensor) -> QueryEncoder:
    encoder(TOKENS, vectors)
    return encoder


def test_query_without_token_vectors_is_its_pretrained_one_alone() -> None:
    encoder = QueryEncoder(rows=6, units=D, ids=False)
    vectors = normal(2, 2, P)
    found = encoder(TOKENS, vectors)
    assert [weight.shape for weight in encoder.weights] == [(P, D)]
    np.testing.assert_allclose(found, dense(vectors.numpy(), encoder.projection), rtol=1e-5)


# --- items ---


def pretrained_for(batch: dict[str, tf.Tensor]) -> Pretrained:
    lists, items = batch["item_id"].shape
    history = batch["history_item_id"].shape[1]
    shapes = {"query": [], "past": [history], "now": [items]}
    return Pretrained(
        *(normal(lists, *shapes[axis], P) for axis in ("now", "past") * 2),
        *(normal(lists, *shapes[axis], P) for axis in ("query", "past")),
    )


def inputs_for(batch: dict[str, tf.Tensor], vectors: bool, match: bool) -> dict:
    return {
        "batch": batch,
        "mask": mask_of(batch, Axis.ITEM),
        "pretrained": pretrained_for(batch) if vectors else None,
        "match": normal(*batch["item_id"].shape, M) if match else None,
    }


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize(("vectors", "match"), [(False, False), (True, False), (True, True)])
def test_items_are_their_formula(encoder: Encoder, batch, ids, vectors, match) -> None:
    layer = ItemEncoder(encoder.inputs, D, ids=ids)
    given = inputs_for(batch, vectors, match)
    layer(**given)
    randomised(layer)
    candidates, past = layer(**given)
    tables = {name: table.embeddings.numpy() for name, table in layer.tables.items()}
    assert tables.keys() == ({"item_id", "item_artist"} if ids else {"item_artist"})
    x = {name: values.numpy() for name, values in batch.items()}
    pretrained = given["pretrained"]

    def known(prefix: str) -> list[np.ndarray]:
        parts = [tables["item_id"][x[f"{prefix}item_id"]]] if ids else []
        parts += [x["initial_score"][..., np.newaxis]] if not prefix else []
        parts.append(tables["item_artist"][x[f"{prefix}item_artist"]])
        return [*parts, x[f"{prefix}item_popularity"][..., np.newaxis]]

    now, before = known(""), known("history_")
    for name in ("initial_score", "item_popularity"):
        sizes = (x["item_id"] != 0).sum(axis=1)
        best = [row[:size].max() for row, size in zip(x[name], sizes, strict=True)]
        now.append((x[name] - np.array(best)[:, np.newaxis])[..., np.newaxis])
    if vectors:
        now += [pretrained.taste, pretrained.intent]
        before += [pretrained.past_taste, pretrained.past_intent]
    if match:
        now.append(np.maximum(dense(given["match"].numpy(), layer.match_projection), 0))
    else:
        assert not layer.match_projection.weights
    for found, parts, projection, axis in (
        (candidates, now, layer.candidate_projection, Axis.ITEM),
        (past, before, layer.history_projection, Axis.HISTORY),
    ):
        real = mask_of(batch, axis).numpy()
        expected = dense(np.concatenate(parts, axis=-1), projection)
        np.testing.assert_allclose(found.numpy()[real], expected[real], rtol=1e-4, atol=1e-5)


def test_padding_has_no_part_in_the_lists_best(encoder: Encoder, batch) -> None:
    layer = ItemEncoder(encoder.inputs, D)
    mask = mask_of(batch, Axis.ITEM)
    loud = {**batch, "initial_score": tf.where(mask, batch["initial_score"], 1e4)}
    expected, found = layer(batch, mask)[0], layer(loud, mask)[0]
    np.testing.assert_array_equal(found[mask], expected[mask])


def test_a_list_of_nothing_but_padding_gives_finite_items(encoder: Encoder, batch) -> None:
    layer = ItemEncoder(encoder.inputs, D)
    empty = {name: tf.zeros_like(values) for name, values in batch.items()}
    candidates, past = layer(empty, mask_of(empty, Axis.ITEM))
    assert np.isfinite(candidates).all()
    assert np.isfinite(past).all()


def test_what_an_item_becomes_does_not_depend_on_its_place(encoder: Encoder, batch) -> None:
    layer = ItemEncoder(encoder.inputs, D)

    def run(batch):
        return layer(batch, mask_of(batch, Axis.ITEM))

    turned = {
        name: values[:, ::-1] if values.shape.rank > 1 else values for name, values in batch.items()
    }
    for found, expected in zip(run(turned), run(batch), strict=True):
        np.testing.assert_allclose(found, expected[:, ::-1], rtol=1e-5, atol=1e-6)


def test_a_past_item_without_its_features_keeps_its_id(tiny) -> None:
    """A log may know less of past items than of candidates."""
    spec = tiny.spec.model_copy(update={"history_item": ()})
    rows = {"user_id": 2, "query": 2, "user_country": 2, "context_device": 2}
    inputs = {
        "features": spec.model_dump(mode="json"),
        "encoding": {},
        "rows": {**rows, "item_id": 5, "item_artist": 3},
    }
    layer = ItemEncoder(inputs, D)
    ids = tf.constant([[1, 4, 0]], tf.int64)
    zeros = tf.zeros([1, 3])
    batch = {
        "item_id": ids,
        "initial_score": zeros,
        "item_artist": tf.zeros([1, 3], tf.int64),
        "item_popularity": zeros,
        "history_item_id": ids,
    }
    _, past = layer(batch, ids != 0)
    expected = dense(tf.gather(layer.tables["item_id"].embeddings, ids), layer.history_projection)
    np.testing.assert_allclose(past, expected, rtol=1e-5, atol=1e-6)


# --- listeners ---


@pytest.mark.parametrize("ids", [True, False])
def test_user_is_profile_context_and_the_mean_of_the_past(encoder: Encoder, batch, ids) -> None:
    history = normal(*batch["history_item_id"].shape, D)
    mask = mask_of(batch, Axis.HISTORY)
    layer = UserEncoder(encoder.inputs, D, ids=ids)
    layer(batch, history, mask)
    randomised(layer)
    found = layer(batch, history, mask)
    tables = {name: table.embeddings.numpy() for name, table in layer.tables.items()}
    assert ("user_id" in tables) == ids
    sizes = mask.numpy().sum(axis=1)
    assert 0 in sizes
    means = [
        row[:size].mean(axis=0) if size else np.zeros(D)
        for row, size in zip(history.numpy(), sizes, strict=True)
    ]
    parts = [
        means,
        *([tables["user_id"][batch["user_id"]]] if ids else []),
        tables["user_country"][batch["user_country"]],
        batch["user_plays"].numpy()[:, np.newaxis],
        tables["context_device"][batch["context_device"]],
        batch["context_hour"].numpy()[:, np.newaxis],
    ]
    expected = dense(np.concatenate(parts, axis=-1), layer.projection)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_users_past_has_no_padding_in_it(encoder: Encoder, batch) -> None:
    history = normal(*batch["history_item_id"].shape, D)
    mask = mask_of(batch, Axis.HISTORY)
    layer = UserEncoder(encoder.inputs, D)
    loud = tf.where(mask[..., tf.newaxis], history, 1e3)
    np.testing.assert_array_equal(layer(batch, history, mask), layer(batch, loud, mask))
