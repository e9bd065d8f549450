"""From predictions to an order."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.config import ScoreConfig
from piano_tf.rerank import in_orders, order_of, score, select


def order(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return order_of(tf.constant(scores, tf.float32), tf.constant(mask)).numpy()


@st.composite
def lists(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    lengths = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    mask = np.arange(max(*lengths, 1)) < np.array(lengths)[:, np.newaxis]
    values = st.sampled_from([-np.inf, -3e38, -50.0, -1.0, 0.0, 1.0, 3e38])
    scores = draw(st.lists(values, min_size=mask.size, max_size=mask.size))
    return np.reshape(scores, mask.shape), mask


@given(lists())
@settings(max_examples=60)
def test_best_first_ties_by_initial_rank_padding_last(made) -> None:
    scores, mask = made
    for row, values, real in zip(order(scores, mask), scores, mask, strict=True):
        length = real.sum()
        assert sorted(row) == list(range(len(row)))
        expected = sorted(range(length), key=lambda place: (-values[place], place))
        assert row.tolist() == [*expected, *range(length, len(row))]


@given(lists())
@settings(max_examples=25)
def test_what_stands_at_padding_does_not_change_the_order(made) -> None:
    scores, mask = made
    loud = np.where(mask, scores, 3e38)
    np.testing.assert_array_equal(order(loud, mask), order(scores, mask))
    longer = order(
        np.pad(scores, [(0, 0), (0, 2)], constant_values=9), np.pad(mask, [(0, 0), (0, 2)])
    )
    np.testing.assert_array_equal(longer[:, : mask.shape[1]], order(scores, mask))


def test_the_order_in_a_graph_is_the_order() -> None:
    scores = tf.constant([[1.0, 1, 1, 2, 1], [0, 0, 0, 9, 9]])
    mask = tf.constant([[True] * 5, [True] * 3 + [False] * 2])
    graph = tf.function(
        order_of,
        input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([None, None], tf.bool)],
    )
    assert graph(scores, mask).numpy().tolist() == [[3, 0, 1, 2, 4], [0, 1, 2, 3, 4]]
    assert order_of(scores, mask).numpy().tolist() == [[3, 0, 1, 2, 4], [0, 1, 2, 3, 4]]


LOGITS = st.floats(-80, 80)
WEIGHTS = st.floats(-4, 4)


@given(LOGITS, st.floats(0, 80), WEIGHTS, WEIGHTS)
@settings(max_examples=100)
def test_score_is_the_weighted_sum_of_log_probabilities(
    click: float, below: float, a: float, b: float
) -> None:
    conversion = click - below  # conversion is never likelier than click
    log_click, log_both = (-np.logaddexp(0, -x) for x in (click, conversion))
    outputs = {"click": tf.constant([[click]]), "conversion": tf.constant([[conversion]])}
    found = score(outputs, ScoreConfig(click=a, conversion=b))
    np.testing.assert_allclose(
        found, [[a * log_click + b * (log_both - log_click)]], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("weights", "ordering"),
    [(ScoreConfig(click=1, conversion=0), "click"), (ScoreConfig(click=1, conversion=1), "both")],
)
def test_weights_choose_between_click_and_click_with_conversion(weights, ordering: str) -> None:
    outputs = {
        "click": tf.constant([[3.0, 1.0, 2.0]]),
        "conversion": tf.constant([[-3.0, 0.0, -1.0]]),
    }
    expected = {"click": [0, 2, 1], "both": [1, 2, 0]}[ordering]
    mask = tf.ones([1, 3], tf.bool)
    assert order_of(score(outputs, weights), mask).numpy()[0].tolist() == expected


@given(lists(), st.integers(1, 4))
@settings(max_examples=40)
def test_every_list_in_each_of_its_orders(made, count: int) -> None:
    scores, mask = made
    orders = np.stack(
        [order(np.roll(scores, place, axis=1), mask) for place in range(count)], axis=1
    )
    batch = {"item": scores, "wide": np.stack([scores, -scores], axis=2), "list": scores[:, 0]}
    tensors = {name: tf.constant(values, tf.float32) for name, values in batch.items()}
    found = in_orders(tensors, ["item", "wide"], tf.constant(orders))
    for row in range(len(scores)):
        for place in range(count):
            own, moved = row * count + place, orders[row, place]
            for name in ("item", "wide"):
                np.testing.assert_array_equal(found[name][own], tensors[name].numpy()[row][moved])
            assert found["list"][own] == tensors["list"][row]


@pytest.mark.parametrize(
    ("values", "best"),
    [([0.1, 0.3, 0.2], 1), ([0.3, 0.3, 0.1], 0), ([0.2, 0.3, 0.3000002], 1), ([-1.0, -2.0], 0)],
    ids=str,
)
def test_the_best_list_is_selected_and_of_equal_ones_the_first(values, best: int) -> None:
    assert select(tf.constant([values])).numpy().tolist() == [best]


def test_sure_logits_give_finite_scores() -> None:
    outputs = {
        "click": tf.constant([[100.0, -100.0]]),
        "conversion": tf.constant([[100.0, -200.0]]),
    }
    assert np.isfinite(score(outputs, ScoreConfig())).all()
