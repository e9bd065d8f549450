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
    sums,
)

LISTS = pa.table(
    {
        "listener": [0, 2, 0, 2, 2],
        "day": [7, 7, 8, 8, 8],
        "any_click": [True, False, True, True, False],
        "clicks": [2, 0, 1, 3, 0],
        "conversions": [1, 0, 0, 2, 0],
        "expected_clicks": [0.5, 0.25, 1.5, 0.75, 0.0],
    }
)


def test_sums_by_hand() -> None:
    ctr = sums(LISTS, CTR, 4, range(7, 9))
    assert ctr.numerator.tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]
    assert ctr.denominator.tolist() == [[1, 1], [0, 0], [1, 2], [0, 0]]
    assert ctr.ratio == 3 / 5
    assert sums(LISTS, CLICKS, 4, range(7, 9)).ratio == 6 / 5
    expected = sums(LISTS, CLICKS.expected(), 4, range(7, 9))
    assert expected.numerator.sum(axis=1).tolist() == [2.0, 0, 1.0, 0]
    plays = sums(LISTS, PLAYS, 4, range(7, 9))
    assert plays.denominator.sum(axis=1).tolist() == [1, 1, 1, 1]  # who did not search did not play
    assert plays.ratio == 3 / 4
    assert plays.of(np.array([False, True, True, False])).ratio == 1
    assert np.isnan(ctr.of(np.array([False, True, False, True])).ratio)


def test_buckets_are_even_and_independent() -> None:
    ids = [f"listener-{number}" for number in range(6_000)]
    one, other = buckets(ids, 3, "one"), buckets(ids, 3, "other")
    np.testing.assert_array_equal(one, buckets(ids, 3, "one"))
    np.testing.assert_array_equal(one[:50], buckets(ids[:50], 3, "one"))
    table = np.histogram2d(one, other, bins=3)[0]
    assert stats.chisquare(table.ravel()).pvalue > 0.001


def drawn(
    rng: np.random.Generator, listeners: int, lift: float = 0.0, days: int = 7
) -> tuple[Sums, Sums]:
    """Listeners of different activity and habits: before and during an experiment."""
    habit = 0.7 * rng.beta(4, 4, (listeners, 1))
    often = rng.gamma(1.0, 1.0, (listeners, 1))
    before, during = (
        1 + rng.poisson(often, (listeners, length)).astype(float) for length in (14, days)
    )
    return (
        Sums(rng.binomial(before.astype(int), habit).astype(float), before),
        Sums(rng.binomial(during.astype(int), habit * (1 + lift)).astype(float), during),
    )


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    hits, p_values = {"plain": 0, "cuped": 0}, []
    times = 200
    for number in range(times):
        (past, policy), (past_control, control) = drawn(rng, 300, 0.1), drawn(rng, 300)
        plain = bootstrap_lift(policy, control, number, resamples=400)
        cuped = cuped_lift(policy, control, past, past_control)
        hits["plain"] += plain.low < 0.1 < plain.high
        hits["cuped"] += cuped.lift.low < 0.1 < cuped.lift.high
        _, same = drawn(rng, 300)
        p_values.append(cuped_lift(same, control, drawn(rng, 300)[0], past_control).p)
    for name, count in hits.items():
        assert stats.binomtest(count, times, 0.95).pvalue > 0.001, (name, count)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_what_was_before_takes_noise_away_and_no_lift() -> None:
    rng = np.random.default_rng(0)
    lifts, plain, left = [], [], []
    for number in range(60):
        (past, policy), (past_control, control) = drawn(rng, 300, 0.1), drawn(rng, 300)
        found = cuped_lift(policy, control, past, past_control)
        lifts.append(found.lift.value)
        plain.append(bootstrap_lift(policy, control, number, resamples=2).value)
        left.append(found.variance_left)
    assert np.mean(left) < 0.7
    assert np.var(lifts) < 0.85 * np.var(plain)
    assert np.mean(lifts) == pytest.approx(0.1, abs=3 * np.std(lifts) / np.sqrt(60))


NOTHING = Sums(np.zeros((400, 14)), np.ones((400, 14)))


def test_what_is_detectable_is_detected_in_four_of_five() -> None:
    rng = np.random.default_rng(2)
    (_, policy), (_, control) = drawn(rng, 400), drawn(rng, 400)
    lift = cuped_lift(policy, control, NOTHING, NOTHING).detectable
    found = []
    for _ in range(200):
        (_, policy), (_, control) = drawn(rng, 400, lift), drawn(rng, 400)
        found.append(cuped_lift(policy, control, NOTHING, NOTHING).p < 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.09)


def test_in_the_days_needed_the_lift_is_found_in_four_of_five() -> None:
    """Also where listeners differ for good, so that no time takes all noise away."""
    rng = np.random.default_rng(4)
    lift, days = 0.06, []
    for _ in range(100):
        (past, policy), (past_control, control) = drawn(rng, 400, lift), drawn(rng, 400)
        days.append(cuped_lift(policy, control, past, past_control).days)
    needed = round(np.median(days))
    assert 10 < needed < 100
    found = []
    for _ in range(200):
        (past, policy), (past_control, control) = (
            drawn(rng, 400, lift, needed),
            drawn(rng, 400, 0, needed),
        )
        found.append(cuped_lift(policy, control, past, past_control).p < 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.12)


def test_no_time_finds_what_listeners_differ_by_too_much_for() -> None:
    rng = np.random.default_rng(5)
    (_, policy), (_, control) = drawn(rng, 400, 0.01), drawn(rng, 400)
    ever = cuped_lift(policy, control, NOTHING, NOTHING)
    assert 0 < ever.lift.value < ever.detectable / 2 and np.isinf(ever.days)


def test_pairs_leave_out_what_listeners_have_in_common() -> None:
    rng = np.random.default_rng(3)
    _, control = drawn(rng, 200)
    policy = Sums(1.1 * control.numerator, control.denominator)
    found = bootstrap_lift(policy, control, 0, paired=True)
    assert found == pytest.approx((0.1, 0.1, 0.1))
    apart = bootstrap_lift(policy, control, 0)
    assert apart.value == pytest.approx(0.1) and apart.low < 0.05 and apart.high > 0.15


def test_where_nothing_was_shown_there_is_no_lift() -> None:
    nothing = Sums(np.zeros((5, 2)), np.zeros((5, 2)))
    assert np.isnan(bootstrap_lift(nothing, nothing, 0)).all()
