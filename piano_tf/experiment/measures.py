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
    """What is divided by what, of every listener.

    Attributes:
      numerator, denominator: [U].
    """

    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def ratio(self) -> float:
        return float(self.numerator.sum() / self.denominator.sum())

    def of(self, listeners: np.ndarray) -> Sums:
        """Of some."""
        return Sums(self.numerator[listeners], self.denominator[listeners])


def sums(lists: pa.Table, measure: Measure, listeners: int) -> Sums:
    """Adds up lists by listener.

    Args:
      lists: Of `piano_tf.experiment.traffic.SCHEMA`.
      measure: What to add up.
      listeners: U.
    """
    who = lists["listener"].to_numpy()
    value = lists[measure.of].to_numpy().astype(np.float64)
    numerator = np.bincount(who, value, minlength=listeners)
    shown = np.bincount(who, minlength=listeners).astype(np.float64)
    return Sums(numerator, shown if measure.per == "list" else np.ones(listeners))


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
      value, low, high: The estimate and its interval.
      p: Of no difference, two-sided; nan where none was tested.
    """

    value: float
    low: float
    high: float
    p: float = np.nan


def bootstrap_lift(policy: Sums, control: Sums, seed: int, resamples: int = RESAMPLES) -> Lift:
    """Percentile bootstrap: listeners drawn anew, those of each policy by themselves."""
    one, other = (np.arange(len(sums.numerator)) for sums in (policy, control))

    def lift(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        x, y = (
            sums.numerator[rows.astype(int)].sum(axis=axis)
            / sums.denominator[rows.astype(int)].sum(axis=axis)
            for sums, rows in ((policy, a), (control, b))
        )
        return x / y - 1

    found = stats.bootstrap(
        (one, other),
        lift,
        n_resamples=resamples,
        batch=max(1, _BATCH_VALUES // max(1, len(one) + len(other))),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Lift(policy.ratio / control.ratio - 1, float(low), float(high))


def paired_lift(policy: Sums, control: Sums, seed: int, resamples: int = RESAMPLES) -> Lift:
    """The same where every listener met both, each in a world of its own."""
    rows = np.arange(len(policy.numerator))

    def lift(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = drawn.astype(int)
        x, y = (
            sums.numerator[drawn].sum(axis=axis) / sums.denominator[drawn].sum(axis=axis)
            for sums in (policy, control)
        )
        return x / y - 1

    found = stats.bootstrap(
        (rows,),
        lift,
        n_resamples=resamples,
        batch=max(1, _BATCH_VALUES // max(1, len(rows))),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Lift(policy.ratio / control.ratio - 1, float(low), float(high))


class Cuped(NamedTuple):
    """A lift with less noise, and what noise was taken away.

    Attributes:
      lift: Estimate, interval and p, by Welch's t over listeners.
      variance_left: Variance of the difference over that without the adjustment.
      detectable: The relative lift that would be found with probability `POWER`.
      days: How long it would take to find the lift that was measured, with the same traffic.
    """

    lift: Lift
    variance_left: float
    detectable: float
    days: float


def cuped_lift(
    policy: Sums, control: Sums, policy_before: Sums, control_before: Sums, days: int
) -> Cuped:
    """Welch's test of a lift, after taking away what listeners were like before the experiment.

    A ratio of sums is turned into a mean over listeners by the delta method,

        y_u = (numerator_u - R denominator_u) / mean(denominator),

    with R the pooled ratio (A. Deng, U. Knoblich, J. Lu, Applying the Delta Method in Metric
    Analytics, KDD 2018, arXiv 1803.06336), x_u likewise of the time before, and

        y_u - theta (x_u - mean(x)),   theta = cov(x, y) / var(x)

    has the same difference between policies and less variance (A. Deng, Y. Xu, R. Kohavi,
    T. Walker, Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data, WSDM 2013). theta is fitted within policies, so that a lift is no part of
    it.

    The lift is (R + mean of the policy's) / (R + mean of the control's) - 1, its standard error by
    the delta method again.

    Args:
      policy, control: Of the experiment, [U] of each one's listeners.
      policy_before, control_before: Of the same listeners before it.
      days: How long the experiment was, for `days`: variance is taken to fall as 1 / days.
    """
    y = _linear(policy, control)
    x = _linear(policy_before, control_before)
    residual_x, residual_y = (np.concatenate([part - part.mean() for part in z]) for z in (x, y))
    spread = (residual_x**2).sum()
    theta = (residual_x * residual_y).sum() / spread if spread else 0.0
    centre = np.concatenate(x).mean()
    adjusted = [b - theta * (a - centre) for a, b in zip(x, y, strict=True)]
    test = stats.ttest_ind(*adjusted, equal_var=False)
    pooled = (policy.numerator.sum() + control.numerator.sum()) / (
        policy.denominator.sum() + control.denominator.sum()
    )
    ours, theirs = (pooled + group.mean() for group in adjusted)
    value = ours / theirs - 1
    of_ours, of_theirs = map(_variance_of_mean, adjusted)
    reach = _Z * np.sqrt(of_ours + (1 + value) ** 2 * of_theirs) / theirs
    variance = of_ours + of_theirs
    needed = (_Z + stats.norm.ppf(POWER)) * np.sqrt(variance) / theirs
    return Cuped(
        Lift(float(value), float(value - reach), float(value + reach), float(test.pvalue)),
        float(variance / sum(map(_variance_of_mean, y))),
        float(needed),
        float(days * (needed / value) ** 2) if value else np.inf,
    )


def _linear(policy: Sums, control: Sums) -> list[np.ndarray]:
    numerator = np.concatenate([policy.numerator, control.numerator])
    denominator = np.concatenate([policy.denominator, control.denominator])
    ratio = numerator.sum() / denominator.sum()
    scale = denominator.mean()
    return [(sums.numerator - ratio * sums.denominator) / scale for sums in (policy, control)]


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1) / len(values))
