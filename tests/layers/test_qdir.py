"""QDIR: the refined interest against its formula, whichever of its parts are there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from layer_samples import (
    HEADS,
    HISTORY,
    HISTORY_COUNTS,
    B,
    D,
    H,
    dense,
    normal_of,
    normed,
    randomised,
    sigmoid,
)
from layer_samples import (
    QDIR_INPUTS as QDIR_INPUTS,
)
from slow_attention import attended

from piano_tf.layers import QueryDrivenInterestRefiner
from piano_tf.layers.qdir import age_bucket

normal = normal_of(3)
PAST = [name for name in QDIR_INPUTS if name.startswith("past_")] + ["same_query"]
SWITCHES = list(itertools.product(["query", "item"], *[[True, False]] * 3))


def made(*switches) -> QueryDrivenInterestRefiner:
    layer = QueryDrivenInterestRefiner(D, HEADS, *switches)
    layer(**QDIR_INPUTS)
    return randomised(layer)


@pytest.fixture(scope="module")
def qdir() -> QueryDrivenInterestRefiner:
    return made()


def changed_past(change) -> dict[str, tf.Tensor]:
    return {name: change(x) if name in PAST else x for name, x in QDIR_INPUTS.items()}


def assert_same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("keys", "null_slot", "gate", "action_age"), SWITCHES)
@pytest.mark.parametrize("same", [True, False])
def test_it_is_its_formula(keys, null_slot, gate, action_age, same: bool) -> None:
    """The whole of the layer again, in NumPy, a listener and an entry at a time."""
    layer = made(keys, null_slot, gate, action_age)
    given = QDIR_INPUTS if same else {**QDIR_INPUTS, "same_query": None}
    found, attention = layer(**given)
    x = {name: values.numpy() for name, values in QDIR_INPUTS.items()}
    for b, size in enumerate(HISTORY_COUNTS):
        compared, values = [], []
        for t in range(size):
            key = x["past_queries" if keys == "query" else "past_items"][b, t]
            if action_age:
                bucket = min(int(np.log2(1 + 24 * x["past_age"][b, t])), 15)
                table = layer.action_age_table.embeddings.numpy()
                key = key + table[x["past_action"][b, t] * 16 + bucket]
            compared.append(key)
            values.append(np.concatenate([x["past_queries"][b, t], x["past_items"][b, t]]))
        equal = x["same_query"][b, :size] if same else None
        c, alpha = attended(layer.attention, x["query"][b], compared, values, equal)
        if gate:
            joined = np.concatenate([x["query"][b], c, x["user"][b]])
            c = c * sigmoid(dense(joined, layer.gate_projection))
        expected = normed(x["user"][b] + c, layer.norm)
        np.testing.assert_allclose(found[b], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(attention[b, :, : 1 + size], alpha, rtol=1e-4, atol=1e-6)
    assert attention.shape == (B, HEADS, 1 + H)


@pytest.mark.parametrize("null_slot", [True, False])
def test_without_a_past_the_interest_is_the_profile_and_the_null_slot(null_slot: bool) -> None:
    qdir = made("query", null_slot)
    refined, attention = qdir(**{**QDIR_INPUTS, "past_mask": tf.zeros([B, H], tf.bool)})
    np.testing.assert_array_equal(attention, null_slot * np.eye(1, H + 1) * np.ones((B, HEADS, 1)))
    none = changed_past(lambda x: x[:, :0])
    assert_same(qdir(**none), (refined, attention[..., :1]))
    if not null_slot:
        expected = normed(QDIR_INPUTS["user"].numpy(), qdir.norm)
        np.testing.assert_allclose(refined, expected, rtol=1e-4, atol=1e-5)


def test_it_sees_no_padding_however_loud(qdir) -> None:
    loud = dict(QDIR_INPUTS)
    for name in ("past_queries", "past_items"):
        loud[name] = tf.where(HISTORY[..., tf.newaxis], QDIR_INPUTS[name], 1e3 * normal(B, H, D))
    loud["past_age"] = tf.where(HISTORY, QDIR_INPUTS["past_age"], 77.0)
    loud["past_action"] = tf.where(HISTORY, QDIR_INPUTS["past_action"], 2)
    loud["same_query"] = QDIR_INPUTS["same_query"] | ~HISTORY
    expected = qdir(**QDIR_INPUTS)
    assert_same(qdir(**loud), expected)
    longer = changed_past(lambda x: tf.concat([x, x], axis=1))
    longer["past_mask"] = tf.pad(HISTORY, [[0, 0], [0, H]])
    refined, attention = qdir(**longer)
    assert_same((refined, attention[..., : 1 + H]), expected)


def test_it_answers_the_present_query(qdir) -> None:
    """With the same past, another query looks elsewhere."""
    _, attention = qdir(**QDIR_INPUTS)
    _, elsewhere = qdir(**{**QDIR_INPUTS, "query": -QDIR_INPUTS["query"]})
    assert np.abs(attention - elsewhere)[0].max() > 0.1


@pytest.mark.parametrize(("keys", "other"), [("query", "past_items"), ("item", "past_queries")])
def test_attention_depends_on_what_keys_are_made_of(keys: str, other: str) -> None:
    qdir = made(keys)
    refined, attention = qdir(**QDIR_INPUTS)
    changed, same = qdir(**{**QDIR_INPUTS, other: -QDIR_INPUTS[other]})
    np.testing.assert_array_equal(same, attention)
    assert np.abs(changed - refined)[0].max() > 0.01  # it is among the values all the same


def test_without_action_and_age_neither_matters() -> None:
    other = {
        **QDIR_INPUTS,
        "past_action": tf.where(HISTORY, 3 - QDIR_INPUTS["past_action"], 0),
        "past_age": 50 + QDIR_INPUTS["past_age"],
    }
    blind, seeing = made("query", True, True, False), made()
    assert_same(blind(**other), blind(**QDIR_INPUTS))
    for one, before in zip(seeing(**other), seeing(**QDIR_INPUTS), strict=True):
        assert np.abs(one - before)[0].max() > 0.01


def test_age_buckets_are_powers_of_two_of_hours() -> None:
    hours = np.array([0, 0.9, 1, 2.9, 3, 6.9, 7, 24, 24 * 365, 1e9])
    expected = np.minimum(np.floor(np.log2(1 + hours + 1e-9)), 15)
    assert age_bucket(tf.constant(hours / 24 + 1e-9)).numpy().tolist() == expected.tolist()
