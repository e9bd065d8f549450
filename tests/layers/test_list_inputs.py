"""The shared inputs: each part is there or not, and is handed what it needs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from layer_samples import D, randomised

from piano_tf.config import ModelConfig, PretrainingConfig
from piano_tf.data.encoding import Encoder
from piano_tf.features import Axis
from piano_tf.layers import ListInputEncoder
from piano_tf.masks import mask_of

VECTORS = PretrainingConfig(width=3, folds=2)


def made(encoder: Encoder, batch, **config) -> ListInputEncoder:
    layer = ListInputEncoder(
        encoder.inputs, ModelConfig(width=D, heads=1, **{"ids": True, **config})
    )
    layer(batch)
    return randomised(layer)


@pytest.mark.parametrize("match", [True, False])
@pytest.mark.parametrize(("pretraining", "ids"), [(None, True), (VECTORS, True), (VECTORS, False)])
def test_each_part_gets_what_it_needs(encoder: Encoder, batch, pretraining, match, ids) -> None:
    layer = made(encoder, batch, pretraining=pretraining, match=match, ids=ids)
    found = layer(batch)
    mask, past_mask = mask_of(batch, Axis.ITEM), mask_of(batch, Axis.HISTORY)
    vectors = layer.pretrained(batch) if pretraining else None
    features = layer.match(batch, vectors) if match else None
    items, past = layer.item_encoder(batch, mask, vectors, features)
    expected = {
        "items": items,
        "mask": mask,
        "rank": [range(batch["item_id"].shape[1])] * len(batch["user_id"]),
        "query": layer.query_encoder(batch["query"], vectors and vectors.query),
        "user": layer.user_encoder(batch, past, past_mask),
        "past_items": past,
        "past_queries": layer.query_encoder(batch["history_query"], vectors and vectors.past_query),
        "past_mask": past_mask,
        "past_action": batch["history_action"],
        "past_age": batch["history_age"],
    }
    assert {*expected, "pretrained"} == set(found._fields)
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)
    assert (found.pretrained is None) == (vectors is None)
    for given, values in zip(found.pretrained or (), vectors or (), strict=True):
        np.testing.assert_array_equal(given, values)


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"pretraining": None}, {"taste", "intent", "words", "query_encoder/projection"}),
        ({"match": False}, {"item_encoder/match_projection"}),
        ({"ids": False}, {"item_id", "user_id", "query_encoder/token"}),
    ],
)
def test_what_is_switched_off_has_no_weights(encoder: Encoder, batch, off, gone) -> None:
    def names(layer: ListInputEncoder) -> set[str]:
        return {weight.name.split("/", 1)[-1] for weight in layer.weights}

    whole = names(made(encoder, batch, pretraining=VECTORS))
    without = names(made(encoder, batch, **{"pretraining": VECTORS, **off}))
    assert without < whole
    lost = whole - without
    assert {next(part for part in gone if part in name) for name in lost} == gone, lost


def test_queries_of_the_past_and_of_now_share_one_encoder(encoder: Encoder, batch) -> None:
    layer = made(encoder, batch, pretraining=VECTORS)
    twin = {**batch, "query": batch["history_query"][:, 0]}
    found = layer(twin)
    np.testing.assert_allclose(found.query, found.past_queries[:, 0], rtol=1e-5, atol=1e-6)


def test_half_precision_reaches_every_vector(encoder: Encoder, batch, policy) -> None:
    policy("mixed_float16")
    found = ListInputEncoder(encoder.inputs, ModelConfig(width=D, heads=1, pretraining=VECTORS))(
        batch
    )
    for name in ("items", "query", "user", "past_items", "past_queries"):
        assert getattr(found, name).dtype == tf.float16, name
