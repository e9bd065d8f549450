"""Intervals that cover, tests that are level, and corrections worked out by hand."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from piano_tf.evaluation import significance
from piano_tf.evaluation.significance import (
    holm,
    interval,
    jackknife_interval,
    paired,
    ratio_interval,
)

NAN = np.nan


# --- intervals ---


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_as_often_as_it_says(level: float) -> None:
    """Of skewed values in [0, 1], as metrics are; within four standard errors."""
    rng = np.random.default_rng(0)
    truth, repeats = 2 / 7, 400
    found = [
        interval(rng.beta(2, 5, 80), seed, resamples=300, level=level) for seed in range(repeats)
    ]
    covered = np.mean([low <= truth <= high for _, low, high in found])
    error = np.sqrt(level * (1 - level) / repeats)
    assert level - 4 * error < covered < level + 4 * error


def test_of_many_values_the_interval_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3, 2, 4_000)
    mean, low, high = interval(values, seed=5)
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    np.testing.assert_allclose([mean - low, high - mean], half, rtol=0.04)


@pytest.mark.parametrize("level", [0.95, 0.998])
def test_the_jackknife_covers_as_often_as_it_says_with_few_clusters(level: float) -> None:
    """Changes that are mostly none, of users with unlike numbers of lists; within four errors."""
    rng = np.random.default_rng(0)
    repeats, users = 1000, 20
    hits = []
    for _ in range(repeats):
        user = np.repeat(np.arange(users), 1 + rng.poisson(2, users))
        changed = rng.choice([-0.6, -0.4, 0.4, 0.6], len(user)) * (rng.random(len(user)) < 0.35)
        values = changed + rng.normal(0, 0.05, users)[user]
        _, low, high = jackknife_interval(values, np.ones(len(user)), user, level)
        hits.append(low <= 0 <= high)
    assert np.mean(hits) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / repeats))


def test_the_jackknife_is_the_bootstrap_of_many_clusters() -> None:
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(1000), 3)
    below = rng.integers(1, 9, 3000).astype(float)
    above = below * (0.2 + rng.normal(0, 0.1, 1000)[user]) + rng.normal(0, 1, 3000)
    expected = ratio_interval(above, below, 0, clusters=user)
    found = jackknife_interval(above, below, user)
    assert found.value == pytest.approx(expected.value)
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_the_jackknife_of_lists_that_do_not_count() -> None:
    values, user = np.array([0.1, NAN, 0.5, 0.9]), np.array(["a", "b", "b", "c"])
    without = jackknife_interval(values[[0, 2, 3]], np.ones(3), user[[0, 2, 3]])
    assert jackknife_interval(values, np.ones(4), user) == without
    assert np.isnan(jackknife_interval(values[:2], np.ones(2), user[:2])).tolist() == [0, 1, 1]
    assert np.isnan(jackknife_interval(values, np.zeros(4), user)).all()


def test_lists_that_do_not_count_are_left_out() -> None:
    values = np.array([0.1, NAN, 0.5, 0.9, NAN])
    assert interval(values, 0, 200) == interval(np.array([0.1, 0.5, 0.9]), 0, 200)
    users = np.array(["a", "b", "a", "c", "d"])
    assert interval(values, 0, 200, clusters=users) == interval(
        np.array([0.1, 0.5, 0.9]), 0, 200, clusters=np.array(["a", "a", "c"])
    )


def test_the_same_seed_gives_the_same_interval_whatever_fits_into_memory() -> None:
    values = np.random.default_rng(2).random(50)
    one = interval(values, 3, 500)
    assert one == interval(values, 3, 500) != interval(values, 4, 500)
    with mock.patch.object(significance, "_BATCH_VALUES", 777):
        assert interval(values, 3, 500) == one


def test_equal_values_have_no_spread_and_too_few_no_interval() -> None:
    assert interval(np.full(5, 0.25), 0, 100) == (0.25, 0.25, 0.25)
    for values, mean in (([0.5, NAN], 0.5), ([NAN], NAN), ([], NAN)):
        np.testing.assert_equal(tuple(interval(np.array(values), 0, 100)), (mean, NAN, NAN))
    one_user = interval(np.array([0.25, 0.75]), 0, 100, clusters=np.zeros(2))
    np.testing.assert_equal(tuple(one_user), (0.5, NAN, NAN))


def test_lists_of_one_user_are_drawn_together() -> None:
    """Ten copies of each value are no more evidence than the values."""
    values = np.random.default_rng(3).random(40)
    alone, copied = interval(values, 0), np.repeat(values, 10)
    together = interval(copied, 0, clusters=np.repeat(np.arange(40), 10))
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    naive = interval(copied, 0)
    np.testing.assert_allclose(
        alone.high - alone.low, np.sqrt(10) * (naive.high - naive.low), rtol=0.06
    )


def test_a_ratio_is_of_sums_with_the_spread_of_the_delta_method() -> None:
    rng = np.random.default_rng(4)
    below = rng.gamma(3, 1, 3_000)
    above = below * rng.beta(3, 2, 3_000) + rng.random(3_000)
    value, low, high = ratio_interval(above, below, seed=0, resamples=4_000)
    assert value == above.sum() / below.sum()
    error = (above - value * below).std() / below.mean() / np.sqrt(len(below))
    half = stats.norm.ppf(0.975) * error
    np.testing.assert_allclose([value - low, high - value], half, rtol=0.06)


def test_a_ratio_to_ones_is_the_mean_and_to_nothing_is_none() -> None:
    values = np.array([0.1, 0.4, NAN, 0.2])
    np.testing.assert_allclose(
        ratio_interval(values, np.ones(4), 0, 300), interval(values, 0, 300), rtol=1e-12
    )
    nothing = ratio_interval(np.zeros(3), np.zeros(3), 0, 100)
    np.testing.assert_equal(tuple(nothing), (NAN, NAN, NAN))


# --- paired comparisons ---


def test_the_difference_has_the_interval_of_its_mean() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(60), rng.random(60)
    found = paired(a, b, seed=1, resamples=500)
    assert found[:3] == interval(a - b, seed=1, resamples=500)
    back = paired(b, a, seed=1, resamples=500)
    assert back.difference == -found.difference and back.p_value == found.p_value


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("whole", [True, False])
def test_p_is_that_of_all_sign_flips(shift: float, whole: bool) -> None:
    """SciPy's permutation test flips all 2^11; of whole numbers many flips are as far from 0."""
    a = np.random.default_rng(6).normal(shift, 2, 11)
    a = np.round(a) if whole else a
    exact = stats.permutation_test(
        (a,), np.mean, permutation_type="samples", vectorized=True, n_resamples=3_000
    ).pvalue
    found = paired(a, np.zeros(11), seed=0, resamples=10_000).p_value
    error = 2 * np.sqrt(exact / 2 * (1 - exact / 2) / 10_000)  # p is twice one tail
    assert abs(found - exact) < 4 * error + 1e-3


def test_means_that_differ_by_rounding_alone_are_equal() -> None:
    tenths = np.array([2, 4, -2, -2])
    found = paired(tenths * 0.1, np.zeros(4), seed=0).p_value
    assert found == paired(tenths * 1.0, np.zeros(4), seed=0).p_value


def test_p_is_uniform_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(7)
    p = [paired(rng.random(30), rng.random(30), seed, resamples=300).p_value for seed in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert min(p) > 0 and max(p) <= 1


def test_p_is_small_where_there_is_one_and_never_zero() -> None:
    values = np.random.default_rng(8).random(100)
    found = paired(values + 0.05, values, seed=0, resamples=999)
    np.testing.assert_allclose(found.p_value, 2 / 1000)
    np.testing.assert_allclose([found.low, found.high], 0.05)
    assert paired(values, values, seed=0, resamples=99).p_value == 1


def test_lists_where_either_does_not_count_are_left_out() -> None:
    a, b = np.array([0.3, NAN, 0.9, 0.2, 0.6]), np.array([0.1, 0.5, NAN, 0.4, 0.1])
    kept = [0, 3, 4]
    assert paired(a, b, 0, 200) == paired(a[kept], b[kept], 0, 200)
    users = np.array(list("abcca"))
    assert paired(a, b, 0, 200, clusters=users) == paired(
        a[kept], b[kept], 0, 200, clusters=users[kept]
    )


def test_the_lists_of_one_user_change_sign_together() -> None:
    values = np.random.default_rng(9).normal(0.2, 1, 30)
    alone = paired(values, np.zeros(30), 0, 2_000)
    copied, users = np.repeat(values, 8), np.repeat(np.arange(30), 8)
    together = paired(copied, np.zeros(240), 0, 2_000, clusters=users)
    np.testing.assert_allclose(together, alone, rtol=1e-9)
    naive = paired(copied, np.zeros(240), 0, 2_000)
    assert naive.p_value < alone.p_value / 5


@pytest.mark.parametrize("values", [[], [0.5], [0.5, NAN]])
def test_fewer_than_two_lists_prove_nothing(values: list[float]) -> None:
    assert paired(np.array(values), np.zeros(len(values)), 0).p_value == 1


# --- many comparisons ---


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall below the third."""
    found = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(found, [3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], random) -> None:
    values = np.array(p)
    adjusted = holm(values)
    assert ((values <= adjusted) & (adjusted <= np.minimum(1, len(p) * values))).all()
    places = random.sample(range(len(p)), len(p))
    np.testing.assert_array_equal(holm(values[places]), adjusted[places])
    for alpha in (0.01, 0.05, 0.3):
        rejected: set[int] = set()
        for step, place in enumerate(np.argsort(values, kind="stable")):
            if (len(p) - step) * values[place] > alpha:
                break
            rejected.add(int(place))
        assert set(np.flatnonzero(adjusted <= alpha)) == rejected


def test_holm_keeps_the_chance_of_any_false_claim() -> None:
    """Of ten true nulls some p is below 0.1 in two of three trials; corrected, in one of ten."""
    p = np.random.default_rng(10).random((2_000, 10))
    raw = (p.min(axis=1) < 0.1).mean()
    corrected = np.mean([holm(trial).min() < 0.1 for trial in p])
    np.testing.assert_allclose(raw, 1 - 0.9**10, atol=0.04)
    np.testing.assert_allclose(corrected, 1 - 0.99**10, atol=0.03)
