"""AUC, log loss and calibration against slow references, SciPy, Keras and closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import Lists, widened
from piano_tf.evaluation.predictions import Predictions
from piano_tf.evaluation.probability import (
    auc,
    calibration_curve,
    chance_calibration_error,
    expected_calibration_error,
    group_auc,
    log_loss,
    probability_metrics,
)
from piano_tf.features import LABELS


def slow_auc(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> float:
    """Every pair in turn."""
    won = pairs = 0.0
    for i in np.flatnonzero(y):
        for j in np.flatnonzero(~y):
            pairs += weights[i] * weights[j]
            won += weights[i] * weights[j] * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    return won / pairs if pairs else np.nan


Cases = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn, least: int = 0) -> Cases:
    """y, p with ties, and whole-number weights, some of them 0."""
    size = draw(st.integers(least, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y, p = rng.random(size) < 0.4, rng.integers(0, 5, size) / 4
    return y, p, rng.integers(0, 4, size)


# --- AUC ---


@given(cases())
@settings(max_examples=100)
def test_auc_is_the_weight_of_pairs_in_the_right_order(made: Cases) -> None:
    y, p, weights = made
    ones = np.ones(len(y))
    np.testing.assert_allclose(auc(y, p), slow_auc(y, p, ones), rtol=1e-12)
    np.testing.assert_allclose(auc(y, p, weights), slow_auc(y, p, weights), rtol=1e-12)


@given(cases())
@settings(max_examples=50)
def test_a_case_of_weight_three_is_three_cases(made: Cases) -> None:
    y, p, weights = made
    repeated = auc(np.repeat(y, weights), np.repeat(p, weights))
    np.testing.assert_allclose(auc(y, p, weights), repeated, rtol=1e-12)


def test_auc_is_mann_whitney_s_u() -> None:
    rng = np.random.default_rng(0)
    y = rng.random(5_000) < 0.05
    p = np.round(rng.random(5_000) * 0.5 + 0.2 * y, 2).astype(np.float32)
    u = stats.mannwhitneyu(p[y], p[~y]).statistic
    np.testing.assert_allclose(auc(y, p), u / (y.sum() * (~y).sum()), rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 8), min_size=1, max_size=6))
@settings(max_examples=60)
def test_group_auc_weighs_lists_with_both_classes_by_their_items(seed: int, lengths) -> None:
    rng = np.random.default_rng(seed)
    mask = np.arange(max(*lengths, 1)) < np.array(lengths)[:, np.newaxis]
    labels, p = (rng.random(mask.shape) < 0.4), rng.integers(0, 5, mask.shape) / 4
    of_list = [
        slow_auc(y[m], x[m], np.ones(m.sum())) for y, x, m in zip(labels, p, mask, strict=True)
    ]
    both = ~np.isnan(of_list)
    sizes = mask.sum(axis=1)[both]
    expected = (np.array(of_list)[both] * sizes).sum() / sizes.sum() if both.any() else np.nan
    np.testing.assert_allclose(group_auc(labels, p, mask), expected, rtol=1e-12)


def test_group_auc_does_not_compare_lists() -> None:
    labels = np.array([[True, False], [True, False]])
    p = np.array([[0.9, 0.8], [0.2, 0.1]])
    assert group_auc(labels, p, np.ones((2, 2), bool)) == 1
    assert auc(labels.ravel(), p.ravel()) == 0.75


# --- log loss ---


def test_log_loss_is_keras_s() -> None:
    rng = np.random.default_rng(1)
    y, p = rng.random(500) < 0.3, rng.random(500)
    theirs = tf.keras.losses.BinaryCrossentropy()(y.astype(float), p)
    np.testing.assert_allclose(log_loss(y, p), theirs, rtol=1e-5)  # in float32


def test_log_loss_of_a_coin_and_of_a_sure_mistake() -> None:
    np.testing.assert_allclose(log_loss(np.array([True, False]), np.full(2, 0.5)), np.log(2))
    np.testing.assert_allclose(
        log_loss(np.array([True, False]), np.array([0.0, 1.0], np.float32)), -np.log(1e-7)
    )
    assert np.isnan(log_loss(np.array([], bool), np.array([])))


@pytest.mark.parametrize("wrong", [1.1, -0.2, np.nan])
@pytest.mark.parametrize("measure", [log_loss, expected_calibration_error, calibration_curve])
def test_what_is_no_probability_is_named(measure, wrong: float) -> None:
    with pytest.raises(PianoError, match=rf"case 1: got {wrong}, expected a probability"):
        measure(np.array([True, False]), np.array([0.3, wrong]))


# --- calibration ---


def slow_ece(y: np.ndarray, p: np.ndarray, bin_of: np.ndarray) -> float:
    total = 0.0
    for number in np.unique(bin_of):
        members = bin_of == number
        total += members.sum() / len(y) * abs(y[members].mean() - p[members].mean())
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_bins_hold_equally_many_cases(bins: int) -> None:
    rng = np.random.default_rng(2)
    p = rng.permutation(60 * bins) / (60 * bins)
    y = rng.random(len(p)) < p**2
    curve = calibration_curve(y, p, bins)
    assert curve.cases.tolist() == [60] * bins
    rank = np.argsort(np.argsort(p))
    np.testing.assert_allclose(
        expected_calibration_error(y, p, bins), slow_ece(y, p, rank // 60), rtol=1e-12
    )
    by_bin = y[np.argsort(p)].reshape(bins, 60), np.sort(p).reshape(bins, 60)
    np.testing.assert_allclose(curve.observed, by_bin[0].mean(axis=1))
    np.testing.assert_allclose(curve.predicted, by_bin[1].mean(axis=1))


@given(st.integers(1, 40), st.integers(1, 15))
@settings(max_examples=80)
def test_no_bin_holds_two_cases_more_than_another(size: int, bins: int) -> None:
    p = np.random.default_rng(0).permutation(size) / size
    counts = calibration_curve(p > 0.5, p, bins).cases
    assert len(counts) == min(size, bins)
    assert counts.max() - counts.min() <= 1


@given(cases(least=1), st.integers(1, 6))
@settings(max_examples=60)
def test_equal_width_is_guo_s_definition(made: Cases, bins: int) -> None:
    y, p, _ = made
    numbers = [next(b for b in range(1, bins + 1) if x <= b / bins) for x in p]
    np.testing.assert_allclose(
        expected_calibration_error(y, p, bins, equal_width=True),
        slow_ece(y, p, np.array(numbers)),
        atol=1e-12,
    )


@given(cases(least=1), st.integers(1, 6), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_order_of_cases_does_not_matter(made: Cases, bins: int, width: bool, random) -> None:
    """Equal probabilities are never parted, so nothing depends on which of them came first."""
    y, p, _ = made
    places = random.sample(range(len(y)), len(y))
    curve = calibration_curve(y, p, bins, equal_width=width)
    shuffled = calibration_curve(y[places], p[places], bins, equal_width=width)
    for one, other in zip(curve, shuffled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert curve.cases.sum() == len(y) and curve.cases.all() and len(curve.cases) <= bins
    assert (np.diff(curve.predicted) > 0).all()
    np.testing.assert_allclose(curve.cases @ curve.predicted, p.sum(), atol=1e-12)
    np.testing.assert_allclose(curve.cases @ curve.observed, y.sum(), atol=1e-12)


@pytest.mark.parametrize("width", [False, True])
def test_a_constant_is_off_by_its_distance_from_the_rate(width: bool) -> None:
    y = np.arange(10) < 5
    found = expected_calibration_error(y, np.full(10, 0.2), equal_width=width)
    np.testing.assert_allclose(found, 0.5 - 0.2)
    assert expected_calibration_error(y, y.astype(float), equal_width=width) == 0
    assert np.isnan(expected_calibration_error(y[:0], np.array([]), equal_width=width))


def test_of_rare_events_equal_width_sees_one_bin_only() -> None:
    """Too low where low and too high where high: the mean is right, and nothing else."""
    p = np.repeat([0.01, 0.03], 1000)
    y = np.tile(np.arange(1000) < 20, 2)  # 0.02 everywhere
    np.testing.assert_allclose(expected_calibration_error(y, p), 0.01, rtol=1e-9)
    np.testing.assert_allclose(expected_calibration_error(y, p, equal_width=True), 0, atol=1e-12)


@pytest.mark.parametrize("bins", [1, 10])
def test_true_probabilities_show_the_error_of_chance(bins: int) -> None:
    rng = np.random.default_rng(6)
    p = rng.beta(1, 3, size=4000)
    shown = [expected_calibration_error(rng.random(len(p)) < p, p, bins) for _ in range(300)]
    np.testing.assert_allclose(chance_calibration_error(p, bins), np.mean(shown), rtol=0.1)
    assert np.isnan(chance_calibration_error(p[:0]))


# --- of lists and predictions ---


def sample(seed: int) -> tuple[Lists, Predictions]:
    """Five lists, the last of padding only."""
    rng = np.random.default_rng(seed)
    mask = np.arange(6) < np.array([[6], [4], [1], [5], [0]])
    click = (rng.random(mask.shape) < 0.5) & mask
    click[2] = False
    said = {name: (rng.integers(1, 9, mask.shape) / 10 * mask) for name in ("score", *LABELS)}
    return (
        Lists(
            list_id=np.array(list("abcde"), object),
            user_id=np.array(list("uuvvw"), object),
            mask=mask,
            labels={"click": click, "conversion": click & (rng.random(mask.shape) < 0.6)},
            history_length=np.zeros(5, int),
            query_frequency=np.zeros(5, int),
            item_popularity=np.zeros(mask.shape, int),
        ),
        Predictions(
            **said, list_click=rng.random(5), list_conversion=np.array([0.5, 0.2, 0.1, 0.3, 0.9])
        ),
    )


def test_every_measure_of_the_protocol_has_its_name_and_cases() -> None:
    lists, said = sample(3)
    found = probability_metrics(lists, said)
    expected = {}
    for label in LABELS:
        items = lists.labels[label][lists.mask], getattr(said, label)[lists.mask]
        whole = lists.labels[label].any(axis=1)[:4], getattr(said, f"list_{label}")[:4]
        expected |= {
            f"{label}_auc": auc(*items),
            f"{label}_group_auc": group_auc(lists.labels[label], getattr(said, label), lists.mask),
            f"{label}_log_loss": log_loss(*items),
            f"{label}_ece": expected_calibration_error(*items),
            f"{label}_ece_by_chance": chance_calibration_error(items[1]),
            f"list_{label}_auc": auc(*whole),
            f"list_{label}_log_loss": log_loss(*whole),
            f"list_{label}_ece": expected_calibration_error(*whole),
            f"list_{label}_ece_by_chance": chance_calibration_error(whole[1]),
        }
    assert found == expected
    assert not any(np.isnan(value) for value in found.values())


def test_padding_and_the_order_of_lists_do_not_matter() -> None:
    lists, said = sample(4)
    expected = probability_metrics(lists, said)

    def moved(values: np.ndarray, fill: float) -> np.ndarray:
        if values.ndim == 1:
            return values[::-1]
        wide = widened(values, 9)[::-1].copy()
        wide[:, 6:] = fill
        return wide

    other = dataclasses.replace(
        lists,
        mask=moved(lists.mask, False),
        labels={label: moved(lists.labels[label], False) for label in LABELS},
    )
    loud = Predictions(**{name: moved(values, 1.0) for name, values in vars(said).items()})
    for name, value in probability_metrics(other, loud).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)


def test_predictions_of_other_lists_are_refused() -> None:
    lists, said = sample(5)
    fewer = Predictions(**{name: values[:3] for name, values in vars(said).items()})
    with pytest.raises(PianoError, match=r"got \(3, 6\).*expected \(5, 6\)"):
        probability_metrics(lists, fewer)
