"""Sizes, masks and random inputs that the tests of layers share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

B, N, H, D, HEADS = 3, 5, 4, 8, 2
S, V = 3, 6  # questions asked of a history, and the width of its values
ITEM_COUNTS, HISTORY_COUNTS = [5, 3, 1], [4, 2, 0]
ITEMS = tf.sequence_mask(ITEM_COUNTS, N)
HISTORY = tf.sequence_mask(HISTORY_COUNTS, H)


def normal_of(seed: int) -> Callable[..., tf.Tensor]:
    """Draws standard normal tensors of given shapes, the same in the same order."""
    rng = np.random.default_rng(seed)
    return lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)


def randomised(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """The layer with weights far from their start, for laws that zeros would fulfil."""
    rng = np.random.default_rng(4)
    layer.set_weights([rng.normal(0, 0.6, weight.shape) for weight in layer.weights])
    return layer


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normed(x: np.ndarray, layer: tf.keras.layers.LayerNormalization) -> np.ndarray:
    """Layer normalisation over the last axis, by its formula."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return scaled * layer.gamma.numpy() + layer.beta.numpy()


def dense(x: np.ndarray, layer: tf.keras.layers.Dense) -> np.ndarray:
    """A dense layer's linear part."""
    found = x @ layer.kernel.numpy()
    return found + layer.bias.numpy() if layer.use_bias else found


_normal = normal_of(3)

ATTENTION_INPUTS = {
    "questions": _normal(B, S, D),
    "keys": _normal(B, H, D),
    "values": _normal(B, H, V),
    "mask": HISTORY,
    "same": tf.constant(np.random.default_rng(6).random((B, S, H)) < 0.5),
}

QDIR_INPUTS = {
    "query": _normal(B, D),
    "user": _normal(B, D),
    "past_queries": _normal(B, H, D),
    "past_items": _normal(B, H, D),
    "past_action": tf.constant([[1, 2, 1, 2], [2, 1, 0, 0], [0, 0, 0, 0]], tf.int64),
    "past_age": tf.constant([[0.0, 0.1, 3.0, 900.0], [1.0, 2.0, 0, 0], [0, 0, 0, 0]]),
    "past_mask": HISTORY,
    "same_query": tf.constant([[True, False, True, False], [False, True] * 2, [False] * 4]),
}

LIST_INPUTS = {
    "items": _normal(B, N, D),
    "query": _normal(B, D),
    "interest": _normal(B, D),
    "found": _normal(B, N, D),
    "node": _normal(B, D),
    "rank": tf.tile(tf.range(N)[tf.newaxis], [B, 1]),
    "mask": ITEMS,
}
