"""The Transformer block against its formula, in both norms."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from layer_samples import (
    HEADS,
    ITEM_COUNTS,
    ITEMS,
    B,
    D,
    N,
    dense,
    normal_of,
    normed,
    randomised,
)

from piano_tf.layers import SelfAttention, SelfAttentionBlock

normal = normal_of(8)


def heads_of(attention: SelfAttention, x: np.ndarray) -> list[np.ndarray]:
    """Queries, keys and values [heads, S, d] of one list [S, D]."""
    parts = np.split(dense(x.astype(np.float64), attention.projection), 3, axis=-1)
    return [np.stack(np.split(part, HEADS, axis=-1)) for part in parts]


def alpha_of(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """[heads, S, S], each of a head's rows summing to 1."""
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    alpha = np.exp(logits - logits.max(-1, keepdims=True))
    return alpha / alpha.sum(-1, keepdims=True)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_it_is_its_formula(pre_norm: bool) -> None:
    block = SelfAttentionBlock(D, HEADS, pre_norm=pre_norm)
    vectors = normal(B, N, D)
    block(vectors, ITEMS)
    randomised(block)
    found = block(vectors, ITEMS).numpy()

    def attend(x: np.ndarray) -> np.ndarray:
        """[S, D] to [S, D], among themselves."""
        q, k, v = heads_of(block.attention, x)
        found = alpha_of(q, k) @ v
        return dense(np.hstack(found), block.attention.output_projection)

    def network(x: np.ndarray) -> np.ndarray:
        return dense(np.maximum(dense(x, block.hidden), 0), block.output_projection)

    for row, x, size in zip(found, vectors.numpy(), ITEM_COUNTS, strict=True):
        x = x[:size].astype(np.float64)
        if pre_norm:
            x = x + attend(normed(x, block.attention_norm))
            x = x + network(normed(x, block.network_norm))
        else:
            x = normed(x + attend(x), block.attention_norm)
            x = normed(x + network(x), block.network_norm)
        np.testing.assert_allclose(row[:size], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_it_sees_no_padding_however_large_the_logits(pre_norm: bool) -> None:
    block = SelfAttentionBlock(D, HEADS, pre_norm=pre_norm)
    vectors, noise = 5 * normal(B, N, D), 5 * normal(B, N, D)
    block(vectors, ITEMS)
    randomised(block)
    q, k, _ = heads_of(block.attention, vectors[0].numpy())
    assert np.min(alpha_of(q, k)) < np.exp(-50)  # some pairs are as unlikely as meant
    expected = block(vectors, ITEMS)
    loud = block(tf.where(ITEMS[..., tf.newaxis], vectors, noise), ITEMS)
    longer = block(tf.concat([vectors, noise], axis=1), tf.pad(ITEMS, [[0, 0], [0, N]]))
    real = ITEMS.numpy()
    for found in (loud, longer[:, :N]):
        np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-4)


def test_a_list_of_nothing_but_padding_gives_something_finite() -> None:
    block = SelfAttentionBlock(D, HEADS, pre_norm=False)
    vectors = tf.zeros([1, N, D])
    with tf.GradientTape() as tape:
        out = block(vectors, tf.zeros([1, N], tf.bool))
        total = tf.reduce_sum(out)
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in tape.gradient(total, block.trainable_weights))
