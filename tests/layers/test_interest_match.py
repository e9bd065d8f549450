"""The match of candidates with the past that bears on the query, entry by entry in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from check_layer import check_layer
from layer_samples import HEADS, HISTORY, HISTORY_COUNTS, ITEMS, B, D, H, N, dense, normal_of

from piano_tf.layers import InterestMatch
from piano_tf.layers.pretrained_vectors import Pretrained

P = 4


def inputs_of() -> dict[str, tf.Tensor]:
    """Vectors of length 1, 0 at padding; some candidates stand in the past with their vector."""
    normal = normal_of(7)
    shapes = dict(zip(Pretrained._fields, [(N, P), (H, P)] * 2 + [(P,), (H, P)], strict=True))
    vectors = {
        name: tf.math.l2_normalize(normal(B, *shape), axis=-1).numpy()
        for name, shape in shapes.items()
    }
    same_item = np.random.default_rng(7).random((B, N, H)) < 0.3
    same_item &= (np.cumsum(same_item, axis=1) == 1) & HISTORY.numpy()[:, np.newaxis]
    for b, n, t in np.argwhere(same_item):
        for space in ("taste", "intent"):
            vectors[f"past_{space}"][b, t] = vectors[space][b, n]
    for name, values in vectors.items():
        if values.ndim == 3:
            real = HISTORY if name.startswith("past_") else ITEMS
            values[~real.numpy()] = 0
    return {
        **{name: tf.constant(values) for name, values in vectors.items()},
        "past_mask": HISTORY,
        "same_item": tf.constant(same_item),
        "same_query": tf.constant([[True, False, True, False], [False, True] * 2, [False] * 4]),
        "circumstances": normal(B, H, D),
    }


INPUTS = inputs_of()


def call(layer: InterestMatch, **given: tf.Tensor) -> tf.Tensor:
    pretrained = Pretrained(**{name: given.pop(name) for name in Pretrained._fields})
    return layer(pretrained, **given)


def made(keys: str = "query", null_slot: bool = True, **given) -> InterestMatch:
    layer = InterestMatch(D, HEADS, keys, null_slot)
    call(layer, **{**INPUTS, **given})
    rng = np.random.default_rng(4)
    layer.set_weights([rng.normal(0, 0.6, weight.shape) for weight in layer.weights])
    return layer


@pytest.mark.parametrize("keys", ["query", "item"])
@pytest.mark.parametrize("null_slot", [True, False])
@pytest.mark.parametrize(
    "left_out", [(), ("same_item", "same_query", "circumstances")], ids=["all", "less"]
)
def test_it_is_a_layer(keys: str, null_slot: bool, left_out: tuple[str, ...]) -> None:
    check_layer(
        InterestMatch,
        {"units": D, "heads": HEADS, "keys": keys, "null_slot": null_slot},
        {name: x for name, x in INPUTS.items() if name not in left_out},
        call=call,
        weights=7 + null_slot,
        # Without a null slot, what is added to every entry's logit is nothing to softmax.
        without_gradient=() if null_slot else ("logits/bias",),
    )


@pytest.mark.parametrize("keys", ["query", "item"])
@pytest.mark.parametrize("null_slot", [True, False])
@pytest.mark.parametrize(
    "left_out", [(), ("same_item",), ("same_query",), ("circumstances",)], ids=str
)
def test_it_is_its_formula(keys: str, null_slot: bool, left_out: tuple[str, ...]) -> None:
    given = {**INPUTS, **dict.fromkeys(left_out)}
    layer = made(keys, null_slot, **given)
    found = call(layer, **given)
    x = {name: values.numpy() for name, values in INPUTS.items()}
    for b, size in enumerate(HISTORY_COUNTS):
        logits = []
        for t in range(size):
            key = x["past_query" if keys == "query" else "past_intent"][b, t]
            near = x["query"][b] @ key
            known = [[near]]
            known += [] if "same_query" in left_out else [[x["same_query"][b, t]]]
            known += [] if "circumstances" in left_out else [x["circumstances"][b, t]]
            hidden = np.maximum(dense(np.concatenate(known), layer.hidden), 0)
            logits.append(dense(hidden, layer.logits) + layer.sharpness.numpy() * near)
        alpha = np.exp(np.array(logits).reshape(size, HEADS))
        alpha /= alpha.sum(axis=0) + (np.exp(layer.null.numpy()) if null_slot else 0)
        for n in range(N):
            same, features = x["same_item"][b, n, :size], []
            counts = "same_item" in left_out or ~same  # what an item shares with itself
            for space in ("taste", "intent"):
                cosines = x[f"past_{space}"][b, :size] @ x[space][b, n]
                features.append(np.where(counts, cosines, 0) @ alpha)
            features += [] if "same_item" in left_out else [alpha[same].sum(axis=0)]
            expected = np.maximum(dense(5 * np.concatenate(features), layer.projection), 0)
            if ITEMS[b, n]:
                np.testing.assert_allclose(found[b, n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("null_slot", [True, False])
def test_what_stands_at_padding_means_nothing(null_slot: bool) -> None:
    layer = made(null_slot=null_slot)
    noise = normal_of(9)
    changed = {
        name: tf.where(
            tf.reshape(HISTORY, [B, H] + [1] * (INPUTS[name].shape.rank - 2)),
            INPUTS[name],
            noise(*INPUTS[name].shape) * 20,
        )
        for name in ("past_taste", "past_intent", "past_query", "circumstances")
    }
    np.testing.assert_allclose(
        call(layer, **{**INPUTS, **changed}), call(layer, **INPUTS), rtol=1e-5, atol=1e-6
    )


def test_heads_look_near_and_far_from_the_start() -> None:
    layer = InterestMatch(D, 6)
    call(layer, **INPUTS)
    np.testing.assert_array_equal(layer.sharpness, [2, 5, 10, 20, 2, 5])
