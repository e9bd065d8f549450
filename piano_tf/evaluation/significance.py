"""How sure one may be of a mean over lists, and of a difference between two re-rankers.

All randomness is the seed's: the same values give the same interval and the same p.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special, stats

RESAMPLES = 10_000
LEVEL = 0.95

_BATCH_VALUES = 4_000_000  # resampled values in memory at a time


class Interval(NamedTuple):
    """A mean, or a ratio of means, and its bootstrap confidence interval."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """How much better a is than b, list by list.

    Attributes:
      difference: Mean of a - b.
      low, high: Its bootstrap confidence interval.
      p_value: Two-sided, of the randomisation test.
    """

    difference: float
    low: float
    high: float
    p_value: float


def interval(
    values: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    *,
    clusters: np.ndarray | None = None,
) -> Interval:
    """Percentile bootstrap interval of the mean over lists.

    The percentile method, and not BCa [ours]: means over hundreds of lists have next to no skew to
    correct, and BCa is undefined where all values are equal.

    Args:
      values: [L] one per list; a nan (a list that does not count) is left out.
      seed: Of the resampling.
      resamples: How many.
      level: Coverage, in (0, 1).
      clusters: [L] what is drawn as a whole, such as the user of each list: lists of one user are
        alike, and an interval that takes them for independent is too narrow. Each list by default.

    Returns:
      The limits are nan if fewer than two lists (clusters) are left, the mean too if none is.
    """
    if clusters is not None:
        ones = np.ones(len(values))
        return ratio_interval(values, ones, seed, resamples, level, clusters=clusters)
    return _bootstrap((values[~np.isnan(values)],), np.mean, seed, resamples, level)


def ratio_interval(
    numerators: np.ndarray,
    denominators: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    *,
    clusters: np.ndarray | None = None,
) -> Interval:
    """Percentile bootstrap interval of sum(numerators) / sum(denominators), lists drawn as a whole.

    Args:
      numerators: [L]; a list where it is nan is left out.
      denominators: [L], non-negative.
      seed, resamples, level, clusters: As in `interval`.

    Returns:
      As `interval`; also nan where all denominators are 0.
    """
    counted = ~np.isnan(numerators)
    above, below = numerators[counted].astype(float), denominators[counted].astype(float)
    if clusters is not None:
        above, below = _sums(clusters[counted], above, below)
    return _bootstrap((above, below), _ratio, seed, resamples, level)


def jackknife_interval(
    numerators: np.ndarray,
    denominators: np.ndarray,
    clusters: np.ndarray,
    level: float = LEVEL,
) -> Interval:
    """Interval of sum(numerators) / sum(denominators), clusters drawn as a whole, without chance.

    What a small change of a cluster's weight does to the ratio is, of each of C clusters,

        r_c = sum over its lists of (numerator - value * denominator), / sum(denominators)

    and the interval is value +- t sqrt(C / (C - 1) sum r_c^2), with Student's t of C - 1 degrees:
    the infinitesimal jackknife, B. Efron, The Jackknife, the Bootstrap and Other Resampling Plans,
    1982. Few clusters make it wider than `ratio_interval`, which then covers less often than it
    says; it costs one pass, at any level of coverage.

    Args:
      numerators: [L]; a list where it is nan is left out.
      denominators: [L], non-negative.
      clusters: [L], what is drawn as a whole.
      level: Coverage, in (0, 1).

    Returns:
      As `ratio_interval`.

    >>> four = np.array([0.0, 1.0, 0.0, 1.0])
    >>> value, low, high = jackknife_interval(four, np.ones(4), np.arange(4))
    >>> bool(np.isclose(high - value, stats.t.ppf(0.975, 3) * four.std(ddof=1) / 2))
    True
    """
    counted = ~np.isnan(numerators)
    above, below = _sums(clusters[counted], numerators[counted], denominators[counted])
    size, total = len(above), below.sum()
    if not total > 0:
        return Interval(np.nan, np.nan, np.nan)
    value = float(above.sum() / total)
    if size < 2:
        return Interval(value, np.nan, np.nan)
    spread = np.sqrt(size / (size - 1) * (((above - value * below) / total) ** 2).sum())
    half = float(special.stdtrit(size - 1, (1 + level) / 2) * spread)
    return Interval(value, value - half, value + half)


def paired(
    a: np.ndarray,
    b: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    *,
    clusters: np.ndarray | None = None,
) -> Paired:
    """Whether a differs from b on the same lists: bootstrap interval and randomisation test.

    The test asks how often the mean of a - b would be as far from 0 if a and b were exchangeable
    within every list, that is if the sign of each difference were a coin's: E. Noreen, Computer
    Intensive Methods for Testing Hypotheses, 1989; M. Smucker, J. Allan, B. Carterette, A Comparison
    of Statistical Significance Tests for Information Retrieval Evaluation, CIKM 2007. Signs are
    drawn, (1 + as far) / (1 + drawn) a side, so that p is never 0.

    Args:
      a, b: [L] the metric of each list. Of several seeds, the mean over seeds: the lists are the
        sample, seeds are not further lists. A list where either is nan is left out.
      seed: Of the resampling.
      resamples: How many, for the interval and for the test.
      level: Coverage of the interval.
      clusters: As in `interval`; their lists change sign together.

    Returns:
      p is 1 where fewer than two lists (clusters) are left.

    >>> a, b = np.array([1.0, 0.5, 1.0, np.nan]), np.array([0.5, 0.5, 1.0, 1.0])
    >>> float(paired(a, b, seed=0).difference) == 0.5 / 3
    True
    """  # noqa: E501
    difference = a - b
    estimate = interval(difference, seed, resamples, level, clusters=clusters)
    counted = ~np.isnan(difference)
    flipped = difference[counted]
    if clusters is not None:
        (flipped,) = _sums(clusters[counted], flipped)
    if len(flipped) < 2:
        return Paired(*estimate, p_value=1.0)
    rng = np.random.default_rng(seed)

    def with_random_signs(size: tuple[int, ...]) -> np.ndarray:
        return np.where(rng.integers(0, 2, size, bool), flipped, -flipped)

    # permutation_test(permutation_type="samples") is the same test, thirty times slower.
    test = stats.monte_carlo_test(
        flipped,
        with_random_signs,
        _rounded_mean,
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(len(flipped)),
        alternative="two-sided",
    )
    return Paired(*estimate, p_value=min(float(test.pvalue), 1.0))


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values corrected for being many: P(any true null below alpha) is at most alpha.

        p'_(i) = max over j <= i of min(1, (m - j) p_(j)),  p_(0) <= ... <= p_(m - 1)

    S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
    Statistics 6, 1979. Nothing is assumed of how the tests depend on each other.

    Args:
      p_values: [m].

    Returns:
      [m], in the order given.

    >>> holm(np.array([0.25, 0.0625, 0.5]))
    array([0.5   , 0.1875, 0.5   ])
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def _bootstrap(
    sample: tuple[np.ndarray, ...],
    statistic: Callable[..., np.ndarray],
    seed: int,
    resamples: int,
    level: float,
) -> Interval:
    size = len(sample[0])
    value = float(statistic(*sample)) if size else np.nan
    if size < 2:
        return Interval(value, np.nan, np.nan)
    found = stats.bootstrap(
        sample,
        statistic,
        n_resamples=resamples,
        batch=_batch(size),
        paired=True,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def _ratio(numerators: np.ndarray, denominators: np.ndarray, axis: int = -1) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing to share
        return numerators.sum(axis=axis) / denominators.sum(axis=axis)


def _rounded_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Means that are equal but for the order of addition are equal: few lists have many of them."""
    return np.round(values.mean(axis=axis), 12)


def _sums(clusters: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sum of each array of values over each cluster."""
    number = np.unique(clusters, return_inverse=True)[1]
    return tuple(np.bincount(number, x) for x in values)


def _batch(size: int) -> int:
    return max(1, _BATCH_VALUES // size)
