"""Metrics against formulas in NumPy, with ties, padding and lists that do not count."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.metrics import NDCG, ItemAUC, ListAUC, ListMetric, default_metrics

LABELS = ("click", "conversion")


def ndcg_of(y: np.ndarray, scores: np.ndarray, k: int) -> float | None:
    """NDCG@k of one list, ties in the order in which they stand; None without a positive."""
    if not y.any():
        return None
    discount = 1 / np.log2(2 + np.arange(len(y)))
    gain = (2.0**y - 1)[np.argsort(-scores, kind="stable")]
    ideal = np.sort(2.0**y - 1)[::-1]
    return (gain * discount)[:k].sum() / (ideal * discount)[:k].sum()


def auc_of(y: np.ndarray, scores: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order; a tie is half right."""
    gaps = scores[y == 1][:, np.newaxis] - scores[y == 0]
    return (np.sign(gaps) / 2 + 0.5).mean()


def updated(metric: ListMetric, labels, outputs, mask) -> ListMetric:
    """The metric after one batch, given as arrays of `metric.label` and of its output."""
    metric.update_state(
        {metric.label: tf.constant(labels, tf.float32)},
        {name: tf.constant(values, tf.float32) for name, values in outputs.items()},
        tf.constant(mask),
    )
    return metric


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    mask = np.arange(max(*lengths, 1)) < np.array(lengths)[:, np.newaxis]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = (rng.random(mask.shape) < 0.4) * 1.0
    scores = rng.integers(-2, 3, mask.shape) * 1.0  # so few values that there are ties
    return labels, scores, mask


@given(st.lists(batches(), min_size=1, max_size=3), st.sampled_from([1, 3, 10]))
@settings(max_examples=25)
def test_ndcg_is_the_mean_over_lists_with_a_positive(parts, k: int) -> None:
    metric = NDCG("conversion", k)
    found = []
    for labels, scores, mask in parts:
        updated(metric, labels, {"conversion": scores}, mask)
        for y, x, real in zip(labels, scores, mask, strict=True):
            found.append(ndcg_of(y[real], x[real], k))
    counted = [value for value in found if value is not None]
    np.testing.assert_allclose(metric.result(), np.mean(counted) if counted else 0.0, rtol=1e-5)
    assert metric.name == f"conversion_ndcg_{k}"


@pytest.mark.parametrize("place", range(4))
def test_ties_stand_in_first_stage_order(place: int) -> None:
    labels, mask = np.eye(1, 4, place), np.ones((1, 4), bool)
    for _ in range(3):  # never at random
        metric = updated(NDCG("click"), labels, {"click": np.zeros((1, 4))}, mask)
        np.testing.assert_allclose(metric.result(), 1 / np.log2(2 + place), rtol=1e-6)


def test_lists_without_a_positive_do_not_count() -> None:
    labels = np.array([[0, 1], [0, 0], [0, 0]], float)
    mask = np.array([[1, 1], [1, 1], [0, 0]], bool)
    metric = updated(NDCG("click"), labels, {"click": np.array([[1.0, 0]] * 3)}, mask)
    np.testing.assert_allclose(metric.result(), 1 / np.log2(3), rtol=1e-6)
    updated(metric, labels[1:], {"click": np.array([[1.0, 0]] * 2)}, mask[1:])
    np.testing.assert_allclose(metric.result(), 1 / np.log2(3), rtol=1e-6)


@pytest.mark.parametrize("kind", [NDCG, ItemAUC])
@pytest.mark.parametrize("size", [-50.0, 0.0, 50.0])
def test_padding_counts_nothing(kind: type[ListMetric], size: float) -> None:
    """Whatever stands at padding, and however far below it the real logits are."""
    rng = np.random.default_rng(5)
    mask = np.arange(6) < np.array([[6], [3], [1]])
    labels, scores = (rng.random(mask.shape) < 0.5) * 1.0, rng.normal(size, 1, mask.shape)
    expected = updated(kind("click"), labels * mask, {"click": scores}, mask).result()
    loud = {"click": np.where(mask, scores, 99.0)}
    assert updated(kind("click"), np.where(mask, labels, 1), loud, mask).result() == expected
    longer = [np.pad(x, [(0, 0), (0, 3)], constant_values=1) for x in (labels, scores)]
    more = np.pad(mask, [(0, 0), (0, 3)])
    assert updated(kind("click"), longer[0], {"click": longer[1]}, more).result() == expected


def test_a_list_of_padding_only_counts_nothing() -> None:
    labels, scores = np.array([[1.0, 0], [1, 1]]), np.array([[0.0, 1], [5, 5]])
    mask = np.array([[True, True], [False, False]])
    for kind in (NDCG, ItemAUC):
        with_it = updated(kind("click"), labels, {"click": scores}, mask).result()
        without = updated(kind("click"), labels[:1], {"click": scores[:1]}, mask[:1]).result()
        assert with_it == without


def test_ndcg_by_another_output() -> None:
    labels, mask = np.array([[0.0, 1.0]]), np.ones((1, 2), bool)
    outputs = {"click": np.array([[1.0, 0.0]]), "score": np.array([[0.0, 1.0]])}
    assert updated(NDCG("click", by="score"), labels, outputs, mask).result() == 1
    np.testing.assert_allclose(
        updated(NDCG("click"), labels, outputs, mask).result(), 1 / np.log2(3), rtol=1e-6
    )


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
def test_item_auc_is_the_share_of_pairs_in_the_right_order(spread: float) -> None:
    rng = np.random.default_rng(6)
    mask = np.arange(20) < rng.integers(1, 21, (100, 1))
    labels = (rng.random(mask.shape) < 0.3) * 1.0
    scores = rng.normal(labels - 0.5, 1, mask.shape) * spread
    metric = ItemAUC("click")
    for start in (0, 40):  # over batches
        part = slice(start, start + 40 if start == 0 else None)
        updated(metric, labels[part], {"click": scores[part]}, mask[part])
    # Keras counts in buckets; two hundred of them are good for two decimals.
    np.testing.assert_allclose(metric.result(), auc_of(labels[mask], scores[mask]), atol=0.01)


def test_item_auc_counts_what_keras_counts() -> None:
    """Case by case, at thresholds too: where the two are equal, neither calls it above."""
    rng = np.random.default_rng(8)
    mask = rng.random((50, 20)) < 0.8
    labels = (rng.random(mask.shape) < 0.2) * 1.0
    logits = rng.choice(np.linspace(-15, 15, 199), mask.shape).astype(np.float32)
    ours = updated(ItemAUC("click"), labels, {"click": logits}, mask).inner
    keras = tf.keras.metrics.AUC(thresholds=ours.thresholds[1:-1], from_logits=True)
    keras.update_state(labels[mask], logits[mask])
    for ours_count, keras_count in zip(ours.variables, keras.variables, strict=True):
        np.testing.assert_array_equal(ours_count, keras_count, err_msg=keras_count.name)


@pytest.mark.parametrize("offset", [-12.0, -6.0, 6.0])
@pytest.mark.parametrize("kind", [ItemAUC, ListAUC])
def test_auc_does_not_depend_on_how_rare_clicks_are(kind, offset: float) -> None:
    """A conversion in a thousand: all probabilities lie below any bucket of 1/200."""
    rng = np.random.default_rng(7)
    labels = (rng.random((200, 1)) < 0.5) * 1.0
    scores = rng.normal(2 * labels, 1)
    mask = np.ones(labels.shape, bool)
    outputs = {"conversion": scores + offset, "list_conversion": scores[:, 0] + offset}
    found = updated(kind("conversion"), labels, outputs, mask).result()
    np.testing.assert_allclose(found, auc_of(labels[:, 0], scores[:, 0]), atol=0.02)


def test_list_auc_is_that_of_at_least_one_in_the_list() -> None:
    mask = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], bool)
    labels = np.array([[0, 1], [0, 1], [1, 1], [0, 0]], float)  # the second's is at padding
    logits = np.array([0.5, 1.0, 2.0, -1.0])
    metric = updated(ListAUC("click"), labels, {"list_click": logits}, mask)
    target = np.array([1, 0, 1, 0])
    np.testing.assert_allclose(metric.result(), auc_of(target, logits), atol=1e-6)


def test_reset_forgets_everything() -> None:
    mask = np.ones((2, 2), bool)
    good, bad = np.array([[1.0, 0], [0, 0]]), np.array([[0.0, 1], [1, 1]])
    for metric in default_metrics():
        outputs = {
            metric.label: np.array([[2.0, -2], [-1, -1]]),
            f"list_{metric.label}": np.array([2.0, -2]),
        }
        once = float(updated(metric, good, outputs, mask).result())
        mixed = float(updated(metric, bad, outputs, mask).result())
        assert mixed != once
        metric.reset_state()
        assert float(updated(metric, good, outputs, mask).result()) == once


def test_default_metrics_are_three_for_each_label() -> None:
    names = {metric.name for metric in default_metrics()}
    expected = {
        name
        for label in LABELS
        for name in (f"{label}_ndcg_10", f"{label}_auc", f"list_{label}_auc")
    }
    assert names == expected


def test_metrics_in_a_graph_are_the_metrics() -> None:
    rng = np.random.default_rng(8)
    labels, scores = (rng.random((4, 5)) < 0.4) * 1.0, rng.normal(size=(4, 5))
    mask = np.arange(5) < np.array([[5], [4], [2], [0]])
    eager = updated(NDCG("click"), labels, {"click": scores}, mask)
    metric = NDCG("click")

    @tf.function(
        input_signature=[tf.TensorSpec([None, None])] * 2 + [tf.TensorSpec([None, None], tf.bool)]
    )
    def update(y: tf.Tensor, x: tf.Tensor, real: tf.Tensor) -> None:
        metric.update_state({"click": y}, {"click": x}, real)

    update(tf.constant(labels, tf.float32), tf.constant(scores, tf.float32), tf.constant(mask))
    np.testing.assert_allclose(metric.result(), eager.result(), rtol=1e-6)


@given(batches(), st.sampled_from([1, 3, 10]))
@settings(max_examples=25)
def test_ndcg_weights_gains_by_inverse_propensity_of_the_initial_rank(batch, k: int) -> None:
    labels, scores, mask = batch
    propensity = np.array([1.0, 0.5, 0.2])
    metric = updated(NDCG("click", k, propensity=propensity), labels, {"click": scores}, mask)
    values, weights = [], []
    for y, x, real in zip(labels, scores, mask, strict=True):
        y, x = y[real], x[real]
        gain = y / propensity[np.minimum(np.arange(len(y)), 2)]
        discount = 1 / np.log2(2 + np.arange(len(y)))
        if y.any():
            best = (np.sort(gain)[::-1] * discount)[:k].sum()
            values.append((gain[np.argsort(-x, kind="stable")] * discount)[:k].sum() / best)
            weights.append(gain.sum() / y.sum())
    expected = np.average(values, weights=weights) if values else 0.0
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)
