"""Losses against closed forms in NumPy, and what padding and empty lists may not do to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.config import LossConfig
from piano_tf.errors import ConfigError
from piano_tf.losses import LISTWISE, RerankingLoss, list_targets, listwise_loss

LABELS = ("click", "conversion")
Arrays = dict[str, np.ndarray]

# Two lists with a positive, one without, one of padding only.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
CLICK = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], float)
CONVERSION = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], float)


def outputs_like(mask: np.ndarray, seed: int = 0, scale: float = 2.0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        **{label: rng.normal(0, scale, mask.shape) for label in LABELS},
        **{f"list_{label}": rng.normal(0, scale, len(mask)) for label in LABELS},
    }


def tensors(arrays: Arrays) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values, tf.float32) for name, values in arrays.items()}


def loss_of(labels: Arrays, outputs: Arrays, mask: np.ndarray, **weights: Any) -> tf.Tensor:
    loss = RerankingLoss(LossConfig(**weights))
    return loss(tensors(labels), tensors(outputs), tf.constant(mask))


# --- propensities ---


def test_labels_are_weighted_by_inverse_propensity() -> None:
    outputs, theta = outputs_like(MASK), np.array([1.0, 0.5, 0.25])
    config = LossConfig(calibration=0.0, list_level=0.0)
    loss = RerankingLoss(config, theta)
    labels = {"click": CLICK, "conversion": CONVERSION}
    found = loss(tensors(labels), tensors(outputs), tf.constant(MASK))
    weights = np.array([1.0, 2.0, 4.0, 4.0])
    expected = sum(softmax_loss(weights * labels[n], outputs[n], MASK) for n in LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_propensities_leave_calibration_and_lists_alone() -> None:
    outputs, labels = tensors(outputs_like(MASK)), tensors({"click": CLICK, "conversion": CLICK})
    theta = np.array([1.0, 0.5])
    mask = tf.constant(MASK)
    gaps = []
    for config in (LossConfig(calibration=0.0, list_level=0.0), LossConfig(consistency=0.5)):
        plain, weighted = RerankingLoss(config), RerankingLoss(config, theta)
        gaps.append(weighted(labels, outputs, mask) - plain(labels, outputs, mask))
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-4)
    assert gaps[0] > 0.1


def test_a_loss_without_weights_takes_no_propensities() -> None:
    with pytest.raises(ConfigError, match="got 'approx_ndcg_loss', expected 'softmax_loss'"):
        RerankingLoss(LossConfig(listwise="approx_ndcg_loss"), np.ones(3))


# --- closed forms ---


def softmax_loss(y: np.ndarray, logits: np.ndarray, mask: np.ndarray) -> float:
    """Mean over lists of - sum_i y_i log softmax(logits)_i over the list's real items."""
    total = 0.0
    for row, values, real in zip(y, logits, mask, strict=True):
        if real.any():
            total -= row[real] @ (values[real] - np.logaddexp.reduce(values[real]))
    return total / len(y)


def cross_entropy(target: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """- t log sigmoid(x) - (1 - t) log sigmoid(-x)."""
    return target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)


def expected_loss(labels: Arrays, outputs: Arrays, mask: np.ndarray, c: LossConfig) -> float:
    shown = mask.any(axis=1)
    total = 0.0
    for label, weight in zip(LABELS, (1.0, c.conversion), strict=True):
        y, x = labels[label], outputs[label]
        total += weight * softmax_loss(y, x, mask)
        total += c.calibration * cross_entropy(y[mask], x[mask]).mean()
        positives = np.where(mask, y, 0).sum(axis=1)[shown]
        target = positives > 0 if c.list_target == "any" else positives / mask.sum(axis=1)[shown]
        lists = cross_entropy(target, outputs[f"list_{label}"][shown])
        total += c.list_level * lists.mean()
    p = 1 / (1 + np.exp(-outputs["click"]))
    independent = 1 - np.where(mask, 1 - p, 1).prod(axis=1)
    gap = 1 / (1 + np.exp(-outputs["list_click"])) - independent
    return total + c.consistency * np.square(gap[shown]).mean()


@pytest.mark.parametrize(
    "weights",
    [
        dict(conversion=0.0, calibration=0.0, list_level=0.0, consistency=0.0),
        dict(conversion=3.0, calibration=0.0, list_level=0.0, consistency=0.0),
        dict(conversion=0.0, calibration=2.0, list_level=0.0, consistency=0.0),
        dict(conversion=0.0, calibration=0.0, list_level=1.5, consistency=0.0),
        dict(conversion=0.0, calibration=0.0, list_level=1.5, list_target="rate"),
        dict(conversion=0.0, calibration=0.0, list_level=0.0, consistency=4.0),
        dict(conversion=0.5, calibration=0.7, list_level=0.3, consistency=0.2),
    ],
)
def test_each_part_and_the_whole_against_the_formula(weights: dict[str, Any]) -> None:
    labels, outputs = {"click": CLICK, "conversion": CONVERSION}, outputs_like(MASK)
    expected = expected_loss(labels, outputs, MASK, LossConfig(**weights))
    assert expected > 0
    found = loss_of(labels, outputs, MASK, **weights)
    assert found.shape == ()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Arrays, Arrays, np.ndarray]:
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any))
    mask = np.arange(max(lengths)) < np.array(lengths)[:, np.newaxis]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    click = (rng.random(mask.shape) < 0.4) & mask
    labels = {"click": click * 1.0, "conversion": (click & (rng.random(mask.shape) < 0.5)) * 1.0}
    return (
        labels,
        outputs_like(mask, draw(st.integers(0, 99)), draw(st.sampled_from([1, 20]))),
        mask,
    )


@given(batches(), st.tuples(*[st.floats(0, 4)] * 4), st.sampled_from(["any", "rate"]))
@settings(max_examples=25)
def test_any_batch_against_the_formula(batch, parts, target: str) -> None:
    names = ("conversion", "calibration", "list_level", "consistency")
    weights = {**dict(zip(names, parts, strict=True)), "list_target": target}
    if target == "rate":
        weights["consistency"] = 0.0
    expected = expected_loss(*batch, LossConfig(**weights))
    np.testing.assert_allclose(loss_of(*batch, **weights), expected, rtol=1e-4, atol=1e-5)


def test_default_weights_are_those_of_the_configuration() -> None:
    labels, outputs = {"click": CLICK, "conversion": CONVERSION}, outputs_like(MASK)
    found = RerankingLoss()(tensors(labels), tensors(outputs), tf.constant(MASK))
    np.testing.assert_allclose(found, expected_loss(labels, outputs, MASK, LossConfig()), rtol=1e-5)


def test_a_rate_has_nothing_to_be_consistent_with() -> None:
    with pytest.raises(ConfigError, match="list_target 'rate' is not that"):
        LossConfig.from_json('{"consistency": 0.5, "list_target": "rate"}')


# --- list targets ---


def test_list_targets_are_any_or_the_rate_of_what_is_shown() -> None:
    labels, mask = tf.constant(CLICK + (~MASK)), tf.constant(MASK)  # ones at padding
    any_of, rate = (list_targets(labels, mask, kind).numpy() for kind in ("any", "rate"))
    assert any_of.tolist() == [1, 1, 0, 0]
    assert rate.tolist() == [2 / 4, 1 / 2, 0, 0]


# --- the listwise losses, by name ---

Y = np.array([[2.0, 0.0, 1.0]])  # no ties, which some of them break
LOGITS = np.array([[0.3, -0.4, 1.1]])


def named(name: str, y: np.ndarray, logits: np.ndarray, mask: np.ndarray) -> tf.Tensor:
    return listwise_loss(
        name, tf.constant(y, tf.float32), tf.constant(logits, tf.float32), mask=tf.constant(mask)
    )


@pytest.mark.parametrize("name", LISTWISE)
@pytest.mark.parametrize("offset", [0.0, -50.0, 50.0])
def test_padding_does_not_count_however_unlikely_the_real_items(name: str, offset: float) -> None:
    """TF-Ranking gives padding the logit log(1e-10), which real logits may fall below."""
    real = np.ones((1, 3), bool)
    alone = named(name, Y, LOGITS, real)
    padded = named(
        name,
        np.pad(Y, [(0, 0), (0, 4)], constant_values=1),
        np.pad(LOGITS + offset, [(0, 0), (0, 4)], constant_values=9),
        np.pad(real, [(0, 0), (0, 4)]),
    )
    np.testing.assert_allclose(padded, alone, rtol=1e-4)


@pytest.mark.parametrize("name", LISTWISE)
def test_a_list_without_positives_costs_nothing(name: str) -> None:
    real = np.ones((1, 3), bool)
    assert named(name, np.zeros((1, 3)), LOGITS, real) == 0
    # Beside a list that has some, it only counts as a list.
    both = named(
        name, np.concatenate([Y, 0 * Y]), np.concatenate([LOGITS, LOGITS]), np.ones((2, 3), bool)
    )
    np.testing.assert_allclose(both, named(name, Y, LOGITS, real) / 2, rtol=1e-5)


@pytest.mark.parametrize("name", LISTWISE)
def test_the_same_lists_always_cost_the_same(name: str) -> None:
    y, real = np.array([[1.0, 0, 0, 1, 0, 0]]), np.ones((1, 6), bool)
    logits = np.array([[0.1, 2.0, -1.0, 0.5, 0.2, -3.0]])
    assert len({float(named(name, y, logits, real)) for _ in range(8)}) == 1


@pytest.mark.parametrize("name", LISTWISE)
def test_a_better_order_costs_less(name: str) -> None:
    real = np.ones((1, 3), bool)
    best = named(name, Y, np.array([[2.0, 0.0, 1.0]]), real)
    worst = named(name, Y, np.array([[0.0, 2.0, 1.0]]), real)
    assert best < worst


def test_an_unknown_listwise_loss_is_one_sentence() -> None:
    with pytest.raises(ConfigError) as fault:
        named("sigmoid_cross_entropy_loss", Y, LOGITS, np.ones((1, 3), bool))
    assert str(fault.value).startswith("loss.listwise: got 'sigmoid_cross_entropy_loss', expected ")
    assert all(name in str(fault.value) for name in LISTWISE)


# --- padding, in value and in gradient ---

ALL = dict(conversion=0.5, calibration=0.7, list_level=0.3, consistency=0.2)


def test_what_stands_at_padding_changes_nothing() -> None:
    labels, outputs = {"click": CLICK, "conversion": CONVERSION}, outputs_like(MASK)
    loud_labels = {name: np.where(MASK, y, 1) for name, y in labels.items()}
    loud = {
        name: np.where(MASK, x, 1e4) if x.ndim == 2 else np.where(MASK.any(axis=1), x, 1e4)
        for name, x in outputs.items()
    }
    np.testing.assert_array_equal(
        loss_of(loud_labels, loud, MASK, **ALL), loss_of(labels, outputs, MASK, **ALL)
    )


@pytest.mark.parametrize("name", ["softmax_loss", "approx_ndcg_loss"])
def test_padding_gets_no_gradient(name: str) -> None:
    labels, outputs = {"click": CLICK, "conversion": CONVERSION}, tensors(outputs_like(MASK))
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = RerankingLoss(LossConfig(listwise=name, **ALL))(
            tensors(labels), outputs, tf.constant(MASK)
        )
    for output, gradient in tape.gradient(loss, outputs).items():
        real = MASK if gradient.shape.rank == 2 else MASK.any(axis=1)
        assert np.isfinite(gradient).all(), output
        assert (gradient.numpy()[~real] == 0).all(), output
        assert (np.abs(gradient.numpy()[real]) > 0).all(), output


@pytest.mark.parametrize("name", LISTWISE)
def test_a_batch_of_padding_only_costs_nothing_and_teaches_nothing(name: str) -> None:
    mask = np.zeros((2, 3), bool)
    outputs = tensors(outputs_like(mask))
    labels = tensors(dict.fromkeys(LABELS, np.zeros(mask.shape)))
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = RerankingLoss(LossConfig(listwise=name, **ALL))(labels, outputs, tf.constant(mask))
    assert loss == 0
    for gradient in tape.gradient(loss, outputs).values():
        assert not np.any(gradient)


@pytest.mark.parametrize("size", [30.0, 100.0])
def test_sure_logits_cost_a_finite_amount_and_have_finite_gradients(size: float) -> None:
    labels = {"click": CLICK, "conversion": CONVERSION}
    outputs = tensors({name: size * np.sign(x) for name, x in outputs_like(MASK).items()})
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = RerankingLoss(LossConfig(**ALL))(tensors(labels), outputs, tf.constant(MASK))
    assert np.isfinite(loss)
    assert all(np.isfinite(x).all() for x in tape.gradient(loss, outputs).values())


def test_half_precision_outputs_are_taken_as_they_are() -> None:
    labels, outputs = {"click": CLICK, "conversion": CONVERSION}, outputs_like(MASK)
    halves = {name: tf.cast(x, tf.float16) for name, x in outputs.items()}
    found = RerankingLoss()(tensors(labels), halves, tf.constant(MASK))
    rounded = {name: np.float64(x) for name, x in halves.items()}
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected_loss(labels, rounded, MASK, LossConfig()), rtol=1e-5)


def test_integer_labels_are_taken_too() -> None:
    outputs = tensors(outputs_like(MASK))
    labels = {"click": CLICK, "conversion": CONVERSION}
    whole = {name: tf.constant(y, tf.int64) for name, y in labels.items()}
    mask = tf.constant(MASK)
    assert RerankingLoss()(whole, outputs, mask) == RerankingLoss()(tensors(labels), outputs, mask)
