"""Dropout: how many units, which, and from what state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from check_layer import check_layer
from layer_samples import B, D, N, normal_of

from piano_tf.layers import Dropout

normal = normal_of(17)
MANY = (400, 501)  # units; no multiple of the four that one random number decides about


def made(rate: float, seed: int = 0) -> Dropout:
    tf.keras.utils.set_random_seed(seed)
    return Dropout(rate)


def kept_of(layer: Dropout, shape: tuple[int, ...] = MANY) -> np.ndarray:
    return layer(tf.ones(shape), training=True).numpy() != 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_units_are_dropped_at_the_rate_and_the_others_scaled(rate: float, compiled: bool) -> None:
    layer, vectors = made(rate), normal(*MANY)
    run = tf.function(lambda: layer(vectors, training=True), jit_compile=compiled)
    found = run().numpy()
    kept = found != 0
    units = kept.size
    assert abs((~kept).sum() - rate * units) < 5 * np.sqrt(rate * (1 - rate) * units)
    dropped = round(rate * 65536) / 65536
    np.testing.assert_allclose(found[kept], vectors.numpy()[kept] / (1 - dropped), rtol=1e-6)
    assert np.any((run().numpy() != 0) != kept)  # others in each call


def test_units_are_dropped_without_regard_to_one_another() -> None:
    """Also those that the same random number decides about."""
    kept = kept_of(made(0.3)).ravel().astype(float) - 0.7
    for apart in (1, 2, 3, 4, MANY[1]):
        share = np.mean(kept[apart:] * kept[:-apart]) / (0.3 * 0.7)
        assert abs(share) < 5 / np.sqrt(kept.size), apart


def test_the_gradient_is_of_what_was_kept() -> None:
    layer, vectors = made(0.4), tf.Variable(normal(B, N, D))
    with tf.GradientTape() as tape:
        found = layer(vectors, training=True)
    gradient = tape.gradient(found, vectors)
    np.testing.assert_allclose(vectors * gradient, found, rtol=1e-6)
    np.testing.assert_allclose(np.unique(gradient), [0, 1 / 0.6], rtol=1e-4)


@pytest.mark.parametrize("how", [{}, {"training": False}])
def test_nothing_is_dropped_where_it_is_off(how: dict) -> None:
    vectors = normal(B, N, D)
    np.testing.assert_array_equal(made(0.5)(vectors, **how), vectors)
    np.testing.assert_array_equal(made(0.0)(vectors, training=True), vectors)


def test_a_seed_settles_what_is_dropped() -> None:
    np.testing.assert_array_equal(kept_of(made(0.5)), kept_of(made(0.5)))
    assert np.any(kept_of(made(0.5)) != kept_of(made(0.5, seed=1)))
    tf.keras.utils.set_random_seed(0)
    one, other = Dropout(0.5), Dropout(0.5)
    assert np.any(kept_of(one) != kept_of(other))


def test_a_checkpoint_holds_what_is_dropped_next(tmp_path: Path) -> None:
    layer, other = made(0.5), made(0.5, seed=1)
    kept_of(layer)
    written = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "checkpoint"))
    expected = kept_of(layer)
    tf.train.Checkpoint(layer=other).read(written).assert_consumed()
    np.testing.assert_array_equal(kept_of(other), expected)


@pytest.mark.parametrize("shape", [(), (1,), (2, 0, 3), (5, 1, 7)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    layer = made(0.5)
    assert layer(tf.ones(shape), training=True).shape == shape
    symbolic = tf.function(lambda x: layer(x, training=True)).get_concrete_function(
        tf.TensorSpec([None] * len(shape))
    )
    assert symbolic(tf.ones(shape)).shape == shape


def test_it_is_a_layer() -> None:
    check_layer(Dropout, {"rate": 0.3}, {"inputs": normal(B, N, D)}, weights=0)


def test_half_precision_stays_half(policy) -> None:
    policy("mixed_float16")
    found = made(0.5)(tf.ones(MANY), training=True)
    assert found.dtype == tf.float16
    assert {*np.unique(found)} == {0, 2}
