"""Click and conversion as one chain, against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_samples import B, D, dense, normal_of, randomised

from piano_tf import layers

normal = normal_of(7)


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -x)


LOGITS = st.floats(-100, 100, width=32, allow_subnormal=False)


@given(LOGITS, LOGITS)
@settings(max_examples=200)
def test_entire_space_logit_is_the_logit_of_the_product(click: float, given_click: float) -> None:
    log_p = log_sigmoid(np.float64(click)) + log_sigmoid(np.float64(given_click))
    expected = log_p - np.log(-np.expm1(log_p))
    found = layers.entire_space_logit(tf.constant(click), tf.constant(given_click)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found <= np.float32(click) + 1e-5


@given(st.lists(LOGITS, min_size=2, max_size=2))
@settings(max_examples=50)
def test_entire_space_logit_takes_the_two_in_either_order(pair: list[float]) -> None:
    a, b = (tf.constant(x) for x in pair)
    one, other = layers.entire_space_logit(a, b), layers.entire_space_logit(b, a)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-5)  # a float32 of size 100 rounds so


@pytest.mark.parametrize("click", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("given_click", [-100.0, 0.0, 100.0])
def test_entire_space_gradients_are_finite_and_those_of_the_formula(click, given_click) -> None:
    a, b = tf.constant(click), tf.constant(given_click)
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        logit = layers.entire_space_logit(a, b)
    gradients = np.array(tape.gradient(logit, [a, b]))
    # d logit / d a = (e^-a + e^-(a+b)) / (e^-a + e^-b + e^-(a+b)), and likewise for b.
    parts = np.array([-click, -given_click, -click - given_click], np.float64)
    share = np.exp(parts - parts.max())
    share /= share.sum()
    np.testing.assert_allclose(gradients, share[:2] + share[2], rtol=1e-5, atol=1e-30)


def test_conversion_is_never_likelier_than_click() -> None:
    head = layers.EntireSpaceHead(D)
    vectors = 30 * normal(50, D)
    head(vectors)
    click, conversion = randomised(head)(vectors)
    assert click.shape == conversion.shape == (50,)
    assert (conversion <= click + 1e-5).numpy().all()
    hidden = [
        np.maximum(dense(vectors.numpy(), layer), 0)
        for layer in (head.click_hidden, head.conversion_hidden)
    ]
    a = dense(hidden[0], head.click)[:, 0]
    b = dense(hidden[1], head.conversion_given_click)[:, 0]
    log_p = log_sigmoid(np.float64(a)) + log_sigmoid(np.float64(b))
    np.testing.assert_allclose(click, a, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(log_sigmoid(conversion.numpy()), log_p, rtol=1e-4, atol=1e-3)


def test_head_is_float32_whatever_the_policy(policy) -> None:
    policy("mixed_float16")
    head = layers.EntireSpaceHead(D)
    for logits in head(tf.ones([2, D], tf.float16)):
        assert logits.dtype == tf.float32


def test_conversion_may_be_predicted_from_vectors_of_its_own() -> None:
    head = layers.EntireSpaceHead(D)
    vectors, others = normal(B, D), normal(B, D)
    head(vectors)
    randomised(head)
    click, conversion = head(vectors, others)
    np.testing.assert_array_equal(click, head(vectors)[0])
    hidden = np.maximum(dense(others.numpy(), head.conversion_hidden), 0)
    given_click = tf.constant(dense(hidden, head.conversion_given_click)[:, 0])
    expected = layers.entire_space_logit(click, given_click)
    np.testing.assert_allclose(conversion, expected, rtol=1e-4, atol=1e-5)
