"""Layers that say in fewer operations what one of Keras's says, beside that one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from check_layer import check_layer
from layer_samples import HEADS, ITEMS, B, D, N, normal_of, normed, randomised

from piano_tf import layers

normal = normal_of(9)


@pytest.mark.parametrize("shape", [(B, D), (B, N, D), (B, N, 2, D)])
def test_dense_is_that_of_keras(shape: tuple[int, ...]) -> None:
    vectors = normal(*shape)
    ours, theirs = (kind(6, "tanh", name="twin") for kind in (layers.Dense, tf.keras.layers.Dense))
    ours(vectors), theirs(vectors)
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(vectors), theirs(vectors), rtol=1e-5, atol=1e-6)
    # Also where a graph knows no size but the width.
    symbolic = tf.function(ours, input_signature=[tf.TensorSpec([None] * (len(shape) - 1) + [D])])
    np.testing.assert_allclose(symbolic(vectors), theirs(vectors), rtol=1e-5, atol=1e-6)


def test_dense_obeys_what_all_layers_do() -> None:
    check_layer(layers.Dense, {"units": 6}, {"inputs": normal(B, N, D)}, weights=2)


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("shape", [(B, D), (B, N, D)])
def test_layer_normalization_is_that_of_keras(shape: tuple[int, ...], size: float) -> None:
    vectors = size * (normal(*shape) + 1)
    ours, theirs = (
        kind(epsilon=1e-6, name="twin")
        for kind in (layers.LayerNormalization, tf.keras.layers.LayerNormalization)
    )
    ours(vectors), theirs(vectors)
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]
    theirs.set_weights(randomised(ours).get_weights())
    np.testing.assert_allclose(ours(vectors), theirs(vectors), rtol=1e-4, atol=1e-4)


def test_layer_normalization_of_half_precision_is_of_float32_statistics(policy) -> None:
    policy("mixed_float16")
    layer = layers.LayerNormalization(epsilon=1e-6)
    vectors = tf.constant([[300.0, -300.0, 100.0, -100.0]], tf.float16)  # squares overflow
    layer(vectors)
    expected = normed(vectors.numpy().astype(np.float32), layer)
    assert layer(vectors).dtype == tf.float16
    np.testing.assert_allclose(layer(vectors), expected, rtol=1e-3)


def test_layer_normalization_obeys_what_all_layers_do() -> None:
    check_layer(layers.LayerNormalization, {}, {"inputs": normal(B, N, D)}, weights=2)


def test_self_attention_is_that_of_keras() -> None:
    vectors = normal(B, N, D)
    ours, theirs = layers.SelfAttention(D, HEADS), keras_attention(D, HEADS)
    ours(vectors, ITEMS)
    theirs(vectors, vectors)
    kernel, bias, out, out_bias = ours.get_weights()
    bias, out_bias = (normal(*one.shape).numpy() for one in (bias, out_bias))
    ours.set_weights([kernel, bias, out, out_bias])
    heads, width = [HEADS, D // HEADS], [D, HEADS, D // HEADS]
    parts = zip(np.split(kernel, 3, axis=1), np.split(bias, 3), strict=True)
    theirs.set_weights(
        [array for k, b in parts for array in (k.reshape(width), b.reshape(heads))]
        + [out.reshape([HEADS, D // HEADS, D]), out_bias]
    )
    expected = theirs(vectors, vectors, attention_mask=ITEMS[:, tf.newaxis])
    np.testing.assert_allclose(ours(vectors, ITEMS)[ITEMS], expected[ITEMS], rtol=1e-4, atol=1e-5)


def test_self_attention_starts_as_that_of_keras_does() -> None:
    units, heads = 96, 4
    tf.keras.utils.set_random_seed(0)
    ours, theirs = layers.SelfAttention(units, heads), keras_attention(units, heads)
    vectors = normal(1, 2, units)
    ours(vectors, tf.constant([[True, True]]))
    theirs(vectors, vectors)
    spread = [np.std(weight) for weight in ours.get_weights()]
    query, _, _, _, _, _, out, _ = (np.std(weight) for weight in theirs.get_weights())
    np.testing.assert_allclose(spread, [query, 0, out, 0], rtol=0.02)


def test_self_attention_obeys_what_all_layers_do() -> None:
    check_layer(
        layers.SelfAttention,
        {"units": D, "heads": HEADS},
        {"vectors": normal(B, N, D), "mask": ITEMS},
        weights=4,
    )


def keras_attention(units: int, heads: int) -> tf.keras.layers.MultiHeadAttention:
    return tf.keras.layers.MultiHeadAttention(heads, units // heads)
