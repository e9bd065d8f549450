"""What an experiment says: rates, lifts, how sure one may be of them, how long it takes.

A listener is what is assigned to a policy, so a listener is what counts once: lists of one listener
resemble each other, and intervals over lists would be too narrow. U is the number of listeners.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import stats

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 2_000

_BATCH_VALUES = 20_000_000
_Z = stats.norm.ppf((1 + LEVEL) / 2)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A ratio of sums over listeners.

    Attributes:
      name: For tables.
      of: Column of `piano_tf.experiment.traffic.SCHEMA` that is summed.
      per: `list` or `listener`.
    """

    name: str
    of: str
    per: str = "list"

    def expected(self) -> Measure:
        """The same of what the world expects, known to nobody in it."""
        return dataclasses.replace(self, of=f"expected_{self.of}")


CTR = Measure("CTR", "any_click")
CVR = Measure("CVR", "any_conversion")
CLICKS = Measure("clicks per list", "clicks")
PLAYS = Measure("plays per listener", "conversions", per="listener")
MEASURES = (CTR, CVR, CLICKS, PLAYS)


class Sums(NamedTuple):
    """What is divided by what, of every listener on every day.

    Attributes:
      numerator, denominator: [U, D].
    """

    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def ratio(self) -> float:
        """Of the sums of all; nan where nothing was shown."""
        whole = self.denominator.sum()
        return float(self.numerator.sum() / whole) if whole else np.nan

    def of(self, listeners: np.ndarray) -> Sums:
        """Of some."""
        return Sums(self.numerator[listeners], self.denominator[listeners])


def sums(lists: pa.Table, measure: Measure, listeners: int, days: range) -> Sums:
    """Adds up lists by listener and day.

    Args:
      lists: Of `piano_tf.experiment.traffic.SCHEMA`.
      measure: What to add up.
      listeners: U.
      days: D days, all that the lists are of.
    """
    shape = listeners, len(days)
    cell = lists["listener"].to_numpy() * len(days) + lists["day"].to_numpy() - days.start
    value = lists[measure.of].to_numpy().astype(np.float64)
    numerator = np.bincount(cell, value, minlength=listeners * len(days)).reshape(shape)
    if measure.per == "listener":  # Who does not search counts as well, on every day alike.
        return Sums(numerator, np.full(shape, 1 / len(days)))
    shown = np.bincount(cell, minlength=listeners * len(days)).astype(np.float64)
    return Sums(numerator, shown.reshape(shape))


def buckets(ids: Sequence[str], count: int, salt: str) -> np.ndarray:
    """[U] bucket of each listener below `count`, by a hash that no one can steer.

    The same listener has the same bucket for as long as the salt is the same; another salt gives an
    independent assignment.

    >>> buckets(["ada", "bo", "chi"], 2, "spring").tolist()
    [0, 0, 0]
    """
    digests = (hashlib.sha256(f"{salt}\0{name}".encode()).digest() for name in ids)
    return np.array([int.from_bytes(digest[:8], "big") % count for digest in digests])


class Lift(NamedTuple):
    """By how much a policy's ratio is above the control's, as a share of the control's.

    Attributes:
      value, low, high: The estimate and its interval; nan where too little was shown.
    """

    value: float
    low: float
    high: float


def bootstrap_lift(
    policy: Sums, control: Sums, seed: int, *, paired: bool = False, resamples: int = RESAMPLES
) -> Lift:
    """Percentile bootstrap over listeners.

    Args:
      policy, control: Of the listeners of each.
      seed: Of the draws.
      paired: Whether both are of the same listeners, each in a world of its own, who are then drawn
        together; else those of each are drawn by themselves.
      resamples: How many.
    """
    groups = [[part.sum(axis=1) for part in group] for group in (policy, control)]

    def lift(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        x, y = (
            numerator[rows.astype(int)].sum(axis=axis)
            / denominator[rows.astype(int)].sum(axis=axis)
            for (numerator, denominator), rows in zip(groups, drawn, strict=True)
        )
        return x / y - 1

    everybody = [np.arange(len(numerator)) for numerator, _ in groups]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = stats.bootstrap(
            everybody,
            lift,
            n_resamples=resamples,
            batch=max(1, _BATCH_VALUES // max(1, sum(map(len, everybody)))),
            vectorized=True,
            paired=paired,
            confidence_level=LEVEL,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    return Lift(_relative(policy.ratio, control.ratio), float(low), float(high))


def _relative(ours: float, theirs: float) -> float:
    return ours / theirs - 1 if theirs else np.nan


class Cuped(NamedTuple):
    """A lift with less noise, and what noise was taken away.

    Attributes:
      lift: Estimate and interval.
      p: Of no difference, two-sided, by Welch's t over listeners.
      variance_left: Variance of the difference over that without the adjustment.
      detectable: The relative lift that would be found with probability `POWER`.
      days: How long the lift that was measured would take to be found with that probability, by the
        same listeners; infinite where no time would do.
    """

    lift: Lift
    p: float
    variance_left: float
    detectable: float
    days: float


def cuped_lift(policy: Sums, control: Sums, policy_before: Sums, control_before: Sums) -> Cuped:
    """Welch's test of a lift, after taking away what listeners were like before the experiment.

    A ratio of sums is turned into a mean over listeners by the delta method,

        y_u = (numerator_u - R denominator_u) / mean(denominator),

    with R the pooled ratio (A. Deng, U. Knoblich, J. Lu, Applying the Delta Method in Metric
    Analytics, KDD 2018, arXiv 1803.06336), x_u likewise of the time before, and

        y_u - theta x_u,   theta = cov(x, y) / var(x)

    has the same difference between policies and less variance (A. Deng, Y. Xu, R. Kohavi,
    T. Walker, Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data, WSDM 2013). theta is fitted within policies, so that a lift is no part of
    it.

    The lift is (R + mean of the policy's) / (R + mean of the control's) - 1, its standard error by
    the delta method again.

    More days with the same listeners take away only what differs from day to day: the variance
    after d days is a + b / d, where b comes from how listeners' own days differ and a, what stays
    of the difference between listeners, is the rest. [ours]

    Args:
      policy, control: Of the experiment, [U, D] of each one's listeners.
      policy_before, control_before: Of the same listeners before it.
    """
    x, y = _linear(policy_before, control_before), _linear(policy, control)
    before, during = ([part.sum(axis=1) for part in groups] for groups in (x, y))
    residual_x, residual_y = (
        np.concatenate([part - part.mean() for part in groups]) for groups in (before, during)
    )
    spread = (residual_x**2).sum()
    theta = (residual_x * residual_y).sum() / spread if spread else 0.0
    adjusted = [b - theta * a for a, b in zip(before, during, strict=True)]
    test = stats.ttest_ind(*adjusted, equal_var=False)
    pooled = Sums(*map(np.concatenate, zip(policy, control, strict=True))).ratio
    ours, theirs = (pooled + group.mean() for group in adjusted)
    value = ours / theirs - 1
    of_ours, of_theirs = map(_variance_of_mean, adjusted)
    reach = _Z * np.sqrt(of_ours + (1 + value) ** 2 * of_theirs) / theirs
    variance = of_ours + of_theirs
    needed = (_Z + stats.norm.ppf(POWER)) * np.sqrt(variance) / theirs
    return Cuped(
        Lift(float(value), float(value - reach), float(value + reach)),
        float(test.pvalue),
        float(variance / sum(map(_variance_of_mean, during))),
        float(needed),
        _days(variance, sum(map(_variance_by_day, y)), variance * (value / needed) ** 2, y[0]),
    )


def _linear(policy: Sums, control: Sums) -> list[np.ndarray]:
    """[U, D] of each group: what a listener's day adds to the group's mean."""
    both = Sums(*map(np.concatenate, zip(policy, control, strict=True)))
    scale = both.denominator.sum(axis=1).mean()
    return [
        (group.numerator - both.ratio * group.denominator) / scale for group in (policy, control)
    ]


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1) / len(values))


def _variance_by_day(values: np.ndarray) -> float:
    """What the days' differences give to the variance of the mean over listeners of their sums."""
    listeners, days = values.shape
    return float(days * values.var(axis=1, ddof=1).mean() / listeners) if days > 1 else np.inf


def _days(variance: float, by_day: float, wanted: float, values: np.ndarray) -> float:
    """How many days bring a variance down to what is wanted; all of it by days, if one is known."""
    by_day = min(by_day, variance)
    left = wanted - (variance - by_day)
    return float(by_day * values.shape[1] / left) if left > 0 else np.inf
