"""The rivals' layers through the harness; their formulas are in tests/models/test_rivals.py."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from check_layer import check_layer
from layer_samples import HISTORY, ITEMS, B, D, H, N, dense, normal_of

from piano_tf import layers

normal = normal_of(12)


@pytest.mark.parametrize(("max_rank", "weights"), [(3, 1), (None, 0)])
def test_candidate_context_is_a_layer(max_rank: int | None, weights: int) -> None:
    def call(layer, items, user, query) -> tf.Tensor:
        rank = tf.tile(tf.range(N)[tf.newaxis], [len(items), 1])
        rest = {name: None for name in layers.ListInputs._fields}
        given = {**rest, "items": items, "user": user, "query": query, "rank": rank}
        return layer(layers.ListInputs(**given))

    check_layer(
        layers.CandidateContext,
        {"units": D, "max_rank": max_rank},
        {"items": normal(B, N, D), "user": normal(B, D), "query": normal(B, D)},
        call=call,
        weights=weights,
    )


def test_feed_forward_is_a_layer() -> None:
    inputs = {"vectors": normal(B, N, D)}
    check_layer(layers.FeedForward, {"widths": [6, 4], "dropout": 0.2}, inputs, weights=2 * 2)


def test_feed_forward_is_its_formula() -> None:
    layer, x = layers.FeedForward([6, 4]), normal(B, N, D)
    found = layer(x)
    expected = x.numpy()
    for each in layer.stack:
        expected = np.maximum(dense(expected, each), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_feed_forward_drops_after_every_layer_in_training_only() -> None:
    layer, x = layers.FeedForward([50, 40], dropout=0.5), tf.ones([1, 3])
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    for each in layer.stack:
        each.kernel.assign(tf.ones_like(each.kernel))
    dropped = layer(x, training=True).numpy()
    assert 0.2 < (dropped == 0).mean() < 0.8
    kept = dropped[dropped > 0]
    assert len(np.unique(kept)) == 1  # 2 * 2 * 3 * how many of the first layer were kept
    assert kept[0] / (2 * 2 * 3) == round(kept[0] / (2 * 2 * 3)) < 50


def test_target_attention_is_a_layer() -> None:
    check_layer(
        layers.TargetAttention,
        {"units": D},
        {"targets": normal(B, N, D), "past": normal(B, H, D), "mask": HISTORY},
        weights=2 + 1 + 1 + 2,  # from target, from past, from product, weight
    )


@pytest.mark.parametrize("specific", [0, 2])
def test_mixture_of_experts_is_a_layer(specific: int) -> None:
    def call(layer, click, conversion, shared):
        return layer([click, conversion], shared)

    check_layer(
        layers.MixtureOfExperts,
        {"units": 6, "tasks": 2, "shared": 3, "specific": specific, "shared_output": True},
        {name: normal(B, N, D) for name in ("click", "conversion", "shared")},
        call=call,
        weights=2 * (3 + 2 * specific) + 2 * 3,  # experts, gates
    )


def test_co_attention_is_a_layer() -> None:
    check_layer(
        layers.CoAttention,
        {"units": D, "parts": 2},
        {
            "candidates": normal(B, N, D),
            "past": normal(B, H, D),
            "user": normal(B, D),
            "age": tf.abs(normal(B, H)),
            "mask": ITEMS,
            "past_mask": HISTORY,
        },
        weights=1 + 2 + 1,  # items' affinity, decay, features' affinity
    )


def test_parts_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="units 8 is not a multiple of parts 3"):
        layers.CoAttention(8, 3)


def test_the_entire_space_head_takes_a_vector_per_task() -> None:
    head, x, y = layers.EntireSpaceHead(D), normal(B, N, D), normal(B, N, D)
    click, both = head(x, y)
    alike_click, _ = head(x)
    np.testing.assert_array_equal(click, alike_click)
    hidden = np.maximum(dense(y.numpy(), head.conversion_hidden), 0)
    given = dense(hidden, head.conversion_given_click)[..., 0]
    expected = layers.entire_space_logit(click, tf.constant(given))
    np.testing.assert_allclose(both, expected, rtol=1e-5, atol=1e-6)
