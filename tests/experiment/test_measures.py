"""Lifts and their certainty, against closed forms and repeated experiments."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from piano_tf.experiment.measures import (
    CLICKS,
    CTR,
    PLAYS,
    Sums,
    bootstrap_lift,
    buckets,
    cuped_lift,
    paired_lift,
    sums,
)

LISTS = pa.table(
    {
        "listener": [0, 2, 0, 2, 2],
        "any_click": [True, False, True, True, False],
        "clicks": [2, 0, 1, 3, 0],
        "conversions": [1, 0, 0, 2, 0],
        "expected_clicks": [0.5, 0.25, 1.5, 0.75, 0.0],
    }
)


def test_sums_by_hand() -> None:
    assert sums(LISTS, CTR, 4).numerator.tolist() == [2, 0, 1, 0]
    assert sums(LISTS, CTR, 4).denominator.tolist() == [2, 0, 3, 0]
    assert sums(LISTS, CTR, 4).ratio == 3 / 5
    assert sums(LISTS, CLICKS, 4).ratio == 6 / 5
    assert sums(LISTS, CLICKS.expected(), 4).numerator.tolist() == [2.0, 0, 1.0, 0]
    plays = sums(LISTS, PLAYS, 4)
    assert plays.denominator.tolist() == [1, 1, 1, 1]  # who did not search did not play
    assert plays.ratio == 3 / 4
    assert plays.of(np.array([False, True, True, False])).ratio == 1


def test_buckets_are_even_and_independent() -> None:
    ids = [f"listener-{number}" for number in range(6_000)]
    one, other = buckets(ids, 3, "one"), buckets(ids, 3, "other")
    np.testing.assert_array_equal(one, buckets(ids, 3, "one"))
    np.testing.assert_array_equal(one[:50], buckets(ids[:50], 3, "one"))
    table = np.histogram2d(one, other, bins=3)[0]
    assert stats.chisquare(table.ravel()).pvalue > 0.001


def drawn(rng: np.random.Generator, listeners: int, lift: float = 0.0) -> tuple[Sums, Sums]:
    """Listeners of different activity and habits: before and during an experiment."""
    habit = 0.7 * rng.beta(4, 4, listeners)
    shown = rng.geometric(0.1, listeners)
    before = Sums(rng.binomial(shown, habit).astype(float), shown.astype(float))
    during = Sums(rng.binomial(shown, habit * (1 + lift)).astype(float), shown.astype(float))
    return before, during


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    hits, p_values = {"plain": 0, "cuped": 0}, []
    times = 200
    for number in range(times):
        (past, policy), (past_control, control) = drawn(rng, 300, 0.1), drawn(rng, 300)
        plain = bootstrap_lift(policy, control, number, resamples=400)
        cuped = cuped_lift(policy, control, past, past_control, 7)
        hits["plain"] += plain.low < 0.1 < plain.high
        hits["cuped"] += cuped.lift.low < 0.1 < cuped.lift.high
        _, same = drawn(rng, 300)
        p_values.append(cuped_lift(same, control, drawn(rng, 300)[0], past_control, 7).lift.p)
    for name, count in hits.items():
        assert stats.binomtest(count, times, 0.95).pvalue > 0.001, (name, count)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_what_was_before_takes_noise_away_and_no_lift() -> None:
    rng = np.random.default_rng(0)
    lifts, plain, left = [], [], []
    for number in range(60):
        (past, policy), (past_control, control) = drawn(rng, 300, 0.1), drawn(rng, 300)
        found = cuped_lift(policy, control, past, past_control, 7)
        lifts.append(found.lift.value)
        plain.append(bootstrap_lift(policy, control, number, resamples=2).value)
        left.append(found.variance_left)
    assert np.mean(left) < 0.7
    assert np.var(lifts) < 0.85 * np.var(plain)
    assert np.mean(lifts) == pytest.approx(0.1, abs=3 * np.std(lifts) / np.sqrt(60))


def test_what_is_detectable_is_detected_in_four_of_five() -> None:
    rng = np.random.default_rng(2)
    nothing = Sums(np.zeros(400), np.ones(400))
    (_, policy), (_, control) = drawn(rng, 400), drawn(rng, 400)
    lift = cuped_lift(policy, control, nothing, nothing, 7).detectable
    found = []
    for _ in range(200):
        (_, policy), (_, control) = drawn(rng, 400, lift), drawn(rng, 400)
        found.append(cuped_lift(policy, control, nothing, nothing, 7).lift.p < 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.09)


def test_the_days_needed_by_hand() -> None:
    rng = np.random.default_rng(1)
    (past, policy), (past_control, control) = drawn(rng, 300, 0.2), drawn(rng, 300)
    found = cuped_lift(policy, control, past, past_control, 10)
    assert found.days == pytest.approx(10 * (found.detectable / found.lift.value) ** 2)


def test_pairs_leave_out_what_listeners_have_in_common() -> None:
    rng = np.random.default_rng(3)
    _, control = drawn(rng, 200)
    policy = Sums(1.1 * control.numerator, control.denominator)
    found = paired_lift(policy, control, 0)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    apart = bootstrap_lift(policy, control, 0)
    assert apart.value == pytest.approx(0.1) and apart.low < 0.05 and apart.high > 0.15
