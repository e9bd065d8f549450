"""Attention over a history against its formula, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from layer_samples import (
    ATTENTION_INPUTS,
    HEADS,
    HISTORY,
    HISTORY_COUNTS,
    B,
    D,
    H,
    S,
    randomised,
)
from slow_attention import attended

from piano_tf.layers import HistoryAttention


@pytest.fixture(params=[True, False], ids=["null slot", "no null slot"])
def layer(request: pytest.FixtureRequest) -> HistoryAttention:
    made = HistoryAttention(D, HEADS, null_slot=request.param)
    made(**ATTENTION_INPUTS)
    return randomised(made)


def assert_same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("same", [True, False])
def test_it_is_its_formula(layer: HistoryAttention, same: bool) -> None:
    given = ATTENTION_INPUTS if same else {**ATTENTION_INPUTS, "same": None}
    found, attention = layer(**given)
    assert found.shape == (B, S, D)
    assert attention.shape == (B, HEADS, S, 1 + H)
    for b, size in enumerate(HISTORY_COUNTS):
        for s in range(S):
            wanted, alpha = attended(
                layer,
                ATTENTION_INPUTS["questions"][b, s].numpy(),
                ATTENTION_INPUTS["keys"][b, :size].numpy(),
                ATTENTION_INPUTS["values"][b, :size].numpy(),
                ATTENTION_INPUTS["same"][b, s, :size].numpy() if same else None,
            )
            np.testing.assert_allclose(found[b, s], wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(attention[b, :, s, : 1 + size], alpha, rtol=1e-4, atol=1e-6)
            assert not np.any(attention[b, :, s, 1 + size :])


def test_attention_sums_to_one_where_there_is_anything_to_attend_to(layer) -> None:
    _, attention = layer(**ATTENTION_INPUTS)
    something = layer.null_slot or np.array(HISTORY_COUNTS) > 0
    expected = np.broadcast_to(np.reshape(something, (-1, 1, 1)), (B, HEADS, S))
    np.testing.assert_allclose(tf.reduce_sum(attention, axis=-1), expected, rtol=1e-6)
    assert np.all(attention.numpy()[..., 0] > 0) == layer.null_slot


def test_without_a_past_there_is_only_the_null_slot(layer) -> None:
    found, attention = layer(**{**ATTENTION_INPUTS, "mask": tf.zeros([B, H], tf.bool)})
    nothing = np.zeros((B, HEADS, S, 1 + H))
    nothing[..., 0] = layer.null_slot
    np.testing.assert_array_equal(attention, nothing)
    value = layer.null_value if layer.null_slot else tf.zeros([D])
    expected = np.broadcast_to(value[tf.newaxis] @ layer.output_projection.kernel, (B, S, D))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    none = {name: ATTENTION_INPUTS[name][:, :0] for name in ("keys", "values", "mask")}
    empty = layer(
        questions=ATTENTION_INPUTS["questions"], same=ATTENTION_INPUTS["same"][..., :0], **none
    )
    assert_same(empty, (found, attention[..., :1]))


def test_padding_is_not_seen_however_loud(layer) -> None:
    expected = layer(**ATTENTION_INPUTS)
    loud = {**ATTENTION_INPUTS, "same": ATTENTION_INPUTS["same"] | ~HISTORY[:, tf.newaxis]}
    for name in ("keys", "values"):
        noise = 1e3 * tf.ones_like(ATTENTION_INPUTS[name])
        loud[name] = tf.where(HISTORY[..., tf.newaxis], ATTENTION_INPUTS[name], noise)
    assert_same(layer(**loud), expected)
    longer = {name: tf.concat([ATTENTION_INPUTS[name]] * 2, axis=1) for name in ("keys", "values")}
    longer["mask"] = tf.pad(HISTORY, [[0, 0], [0, H]])
    longer["same"] = tf.concat([ATTENTION_INPUTS["same"]] * 2, axis=2)
    found, attention = layer(**{**ATTENTION_INPUTS, **longer})
    assert_same((found, attention[..., : 1 + H]), expected)
    assert not np.any(attention[..., 1 + H :])


def test_padding_is_not_seen_however_unlikely_the_real_entries(layer) -> None:
    """Real logits far below 0: a mask that only lowers a logit, or a padded key, would show."""
    layer.sharpness.assign([50.0] * HEADS)
    asked = layer.query_projection(ATTENTION_INPUTS["questions"][:, :1])
    keys = -asked @ np.linalg.pinv(layer.key_projection.kernel)  # W_K of it is -Q
    keys = tf.where(HISTORY[..., tf.newaxis], tf.repeat(keys, H, axis=1), 0.0)
    far = {
        **ATTENTION_INPUTS,
        "questions": ATTENTION_INPUTS["questions"][:, :1],
        "keys": keys,
        "same": None,
    }
    _, attention = layer(**far)
    entries = attention.numpy()[:, :, 0, 1:]
    padding = np.broadcast_to(~HISTORY.numpy()[:, np.newaxis], entries.shape)
    assert (entries[padding] == 0).all()
    if layer.null_slot:
        assert entries.max() < 1e-6  # the real entries are as unlikely as meant
    else:  # equally unlikely, so equally likely
        expected = np.repeat(1 / np.array([4, 2]), HEADS)
        np.testing.assert_allclose(entries[:2].max(axis=-1).ravel(), expected, rtol=1e-4)


def test_the_order_of_the_past_does_not_matter(layer) -> None:
    turned = {name: ATTENTION_INPUTS[name][:, ::-1] for name in ("keys", "values", "mask")}
    turned["same"] = ATTENTION_INPUTS["same"][..., ::-1]
    found, attention = layer(**{**ATTENTION_INPUTS, **turned})
    unturned = tf.concat([attention[..., :1], attention[..., :0:-1]], axis=-1)
    assert_same((found, unturned), layer(**ATTENTION_INPUTS))


def test_each_question_is_answered_alone(layer) -> None:
    found, attention = layer(**ATTENTION_INPUTS)
    alone = layer(
        **{
            **ATTENTION_INPUTS,
            "questions": ATTENTION_INPUTS["questions"][:, 1:2],
            "same": ATTENTION_INPUTS["same"][:, 1:2],
        }
    )
    assert_same(alone, (found[:, 1:2], attention[:, :, 1:2]))
    assert np.abs(found[0, 0] - found[0, 1]).max() > 0.1


def test_it_starts_as_plain_similarity_without_a_say_of_what_is_same() -> None:
    layer = HistoryAttention(D, HEADS)
    by_head = tf.reshape(ATTENTION_INPUTS["keys"], [B, H, HEADS, D // HEADS])
    keys = tf.reshape(tf.math.l2_normalize(by_head, axis=-1), [B, H, D])
    same = ATTENTION_INPUTS["same"][:, :1]
    given = {**ATTENTION_INPUTS, "keys": keys, "questions": keys[:, :1], "same": same}
    _, attention = layer(**given)
    assert (np.argmax(attention.numpy()[:2, :, 0], axis=-1) == 1).all()  # the first entry
    np.testing.assert_array_equal(attention, layer(**{**given, "same": None})[1])


@pytest.mark.parametrize("length", [0.05, 20.0])
def test_what_is_alike_stands_out_however_short_its_vector(length: float) -> None:
    """Pre-trained vectors are of length 1, trained embeddings longer: both are to be told apart."""
    layer = HistoryAttention(D, HEADS, null_slot=False)
    keys = length * tf.tile(tf.eye(H), [1, HEADS])[tf.newaxis]  # at right angles in every head
    _, attention = layer(keys[:, :1], keys, ATTENTION_INPUTS["values"][:1], tf.ones([1, H]) > 0)
    assert (attention.numpy()[..., 1] > 0.99).all()


def test_who_is_never_told_what_is_same_has_no_weights_for_it() -> None:
    layer = HistoryAttention(D, HEADS)
    layer(**{**ATTENTION_INPUTS, "same": None})
    assert not layer.match.weights
    layer(**ATTENTION_INPUTS)
    assert [weight.shape for weight in layer.match.weights] == [(1, HEADS)]


def test_a_weight_for_what_is_same_draws_attention_to_it(layer) -> None:
    layer.match.set_weights([np.array([[20.0, -20.0]])])
    same = tf.constant(np.eye(1, H, 1)[np.newaxis] > 0) & tf.ones([B, S, 1], tf.bool)
    _, attention = layer(**{**ATTENTION_INPUTS, "same": same})
    np.testing.assert_allclose(attention[:2, 0, :, 2], np.ones((2, S)), atol=1e-3)
    np.testing.assert_allclose(attention[:2, 1, :, 2], np.zeros((2, S)), atol=1e-3)
