"""How good probabilities are: whether they tell events apart, and whether they can be believed.

Cases are flat: y [n] boolean, p [n] in [0, 1]. All of it is computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.predictions import Predictions
from piano_tf.features import LABELS

BINS = 10
_SURE = 1e-7  # About float32's step below 1, in which models compute.


def auc(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Share of (positive, negative) pairs in the right order; a tie is half right. Exact.

    Args:
      y: [n] boolean.
      p: [n], anything that orders.
      weights: [n] non-negative; a pair weighs the product of its two. 1 by default.

    Returns:
      nan where a class is missing.

    >>> auc(np.array([True, False, False]), np.array([0.5, 0.5, 0.1]))
    0.75
    """
    weights = np.ones(len(y)) if weights is None else weights
    return float(_auc_by_group(np.zeros(len(y), int), 1, y, p, weights)[0])


def group_auc(labels: np.ndarray, p: np.ndarray, mask: np.ndarray) -> float:
    """GAUC by list: the mean AUC within lists, weighted by their shown items.

        GAUC = sum_l n_l AUC_l / sum_l n_l,  over the lists l that have both classes

    Weighted by impressions, as H. Zhu et al., Optimized Cost per Click in Taobao Display
    Advertising, KDD 2017, and G. Zhou et al., Deep Interest Network, KDD 2018 (arXiv 1706.06978)
    have it; their groups are users, ours are lists, for a list is what is re-ordered.

    Args:
      labels: [L, N] boolean.
      p: [L, N], anything that orders.
      mask: [L, N] boolean, True = real.

    Returns:
      nan where no list has both classes.
    """
    found = auc_by_list(labels, p, mask)
    both = ~np.isnan(found)
    return float(np.average(found[both], weights=mask.sum(axis=1)[both])) if both.any() else np.nan


def auc_by_list(labels: np.ndarray, p: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[L] AUC within each list, nan where a class is missing; arguments as `group_auc`'s."""
    group = np.nonzero(mask)[0]
    return _auc_by_group(group, len(mask), labels[mask], p[mask], np.ones(len(group)))


def log_loss(y: np.ndarray, p: np.ndarray) -> float:
    """Mean of -y log p - (1 - y) log(1 - p), in nats.

    p is held within 1e-7 of 0 and 1 [ours]: one sure mistake costs 16.1 and not everything.

    Args:
      y: [n] boolean.
      p: [n] probabilities.

    Returns:
      nan of no cases.

    Raises:
      PianoError: A value of p is no probability.
    """
    p = np.clip(_probabilities(p), _SURE, 1 - _SURE)
    return _mean(-np.log(np.where(y, p, 1 - p)))


class CalibrationCurve(NamedTuple):
    """What was said and what happened, bin by bin, from low to high; bins without cases are left out.

    Attributes:
      predicted: [b] mean probability said.
      observed: [b] share of positives.
      cases: [b] how many.
    """  # noqa: E501

    predicted: np.ndarray
    observed: np.ndarray
    cases: np.ndarray


def calibration_curve(
    y: np.ndarray, p: np.ndarray, bins: int = BINS, *, equal_width: bool = False
) -> CalibrationCurve:
    """Observed against predicted probability.

    Bins are of equal count: events are rare, and bins of equal width would hold nearly all cases in
    the first one or two and say little about the rest. Equal probabilities stay in one bin, so that
    the order of cases means nothing and there may be fewer bins than asked for.

    Args:
      y: [n] boolean.
      p: [n] probabilities.
      bins: At most so many.
      equal_width: Bins ((b - 1) / bins, b / bins] of equal width instead, as C. Guo et al., On
        Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599) have it.

    Raises:
      PianoError: A value of p is no probability.
    """
    p = _probabilities(p)
    inner = np.arange(1, bins)
    if equal_width:
        edges = inner / bins
    else:
        last = -(-inner * len(p) // bins) - 1  # place of the last case of all bins but the last
        edges = np.sort(p)[last] if len(p) else np.array([])
    number = np.searchsorted(edges, p, side="left")  # edge b - 1 < p <= edge b
    count = np.bincount(number, minlength=bins)
    used = count > 0
    predicted, observed = (np.bincount(number, x, bins)[used] / count[used] for x in (p, y))
    return CalibrationCurve(predicted, observed, count[used])


def expected_calibration_error(
    y: np.ndarray, p: np.ndarray, bins: int = BINS, *, equal_width: bool = False
) -> float:
    """Mean distance of observed from predicted probability over bins, weighted by their cases.

    M. Pakdaman Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI
    2015; by default over bins of equal count, for which J. Nixon et al., Measuring Calibration in
    Deep Learning, 2019 (arXiv 1904.01685) argue.

    Args:
      y: [n] boolean.
      p: [n] probabilities.
      bins: As in `calibration_curve`.
      equal_width: As there.

    Returns:
      nan of no cases.

    Raises:
      PianoError: A value of p is no probability.

    >>> y = np.array([True, False, False, False])
    >>> expected_calibration_error(y, np.full(4, 0.5))
    0.25
    """
    curve = calibration_curve(y, p, bins, equal_width=equal_width)
    gap = np.abs(curve.predicted - curve.observed)
    return float(np.average(gap, weights=curve.cases)) if len(gap) else np.nan


def chance_calibration_error(p: np.ndarray, bins: int = BINS) -> float:
    """The calibration error that probabilities would show on so many cases if they were true.

    In a bin of n cases the share of positives is off by about a normal error of variance
    v = sum p (1 - p) / n^2, whose mean distance from 0 is sqrt(2 v / pi). An expected calibration
    error near this one says no more than that there are not enough cases to tell [ours].

    Cases are taken as independent. The items of a list are not quite, nor are the lists of one
    listener: where a listener has several, chance alone shows more than this.

    Args:
      p: [n] probabilities.
      bins: Of equal count, as in `calibration_curve`.

    Returns:
      nan of no cases.

    Raises:
      PianoError: A value of p is no probability.

    >>> round(chance_calibration_error(np.full(5000, 0.5)), 4)
    0.0056
    """
    p = _probabilities(p)
    _, variance, cases = calibration_curve(p * (1 - p), p, bins)
    distance = np.sqrt(2 * variance / (np.pi * cases))
    return float(np.average(distance, weights=cases)) if len(cases) else np.nan


def probability_metrics(lists: Lists, predictions: Predictions) -> dict[str, float]:
    """AUC, group AUC, log loss and calibration error of items, and of lists, for both labels.

    Args:
      lists: What happened.
      predictions: Of the same lists, in the same order.

    Returns:
      `click_auc`, `click_group_auc`, `click_log_loss`, `click_ece`, `click_ece_by_chance`,
      `list_click_auc`, `list_click_log_loss`, `list_click_ece`, `list_click_ece_by_chance`, and the
      same of conversion.

    Raises:
      PianoError: The two differ in shape, or what is said is no probability.
    """
    if predictions.click.shape != lists.mask.shape:
        raise PianoError(
            f"predictions: got {predictions.click.shape} (lists, candidates), expected "
            f"{lists.mask.shape} as in the lists"
        )
    found: dict[str, float] = {}
    shown = lists.mask.any(axis=1)  # a list of padding only is no list
    for label in LABELS:
        truth, p = lists.labels[label], getattr(predictions, label)
        found |= _named(label, truth[lists.mask], p[lists.mask])
        found[f"{label}_group_auc"] = group_auc(truth, p, lists.mask)
        of_list = getattr(predictions, f"list_{label}")
        found |= _named(f"list_{label}", lists.any(label)[shown], of_list[shown])
    return found


def _named(name: str, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    return {
        f"{name}_auc": auc(y, p),
        f"{name}_log_loss": log_loss(y, p),
        f"{name}_ece": expected_calibration_error(y, p),
        f"{name}_ece_by_chance": chance_calibration_error(p),
    }


def _auc_by_group(
    group: np.ndarray, groups: int, y: np.ndarray, p: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """AUC within each of `groups` groups, nan where a class is missing.

    Cases are sorted by (group, p). Each positive wins against the weight of the negatives before
    its run of equal p, and half against that of the run's own.
    """
    order = np.lexsort((p, group))
    group, y, p, weights = group[order], y[order].astype(bool), p[order], weights[order]
    starts = np.ones(len(p), bool)
    starts[1:] = (np.diff(group) != 0) | (np.diff(p) != 0)
    run = np.cumsum(starts) - 1
    positive, negative = (np.bincount(run, np.where(y == x, weights, 0)) for x in (True, False))
    of_run = group[starts]
    all_positive, all_negative = (np.bincount(of_run, x, groups) for x in (positive, negative))
    before = np.cumsum(negative) - negative  # of this group's runs and of all groups before it
    before -= (np.cumsum(all_negative) - all_negative)[of_run]
    won = np.bincount(of_run, positive * (before + negative / 2), groups)
    pairs = all_positive * all_negative
    return np.divide(won, pairs, out=np.full(groups, np.nan), where=pairs > 0)


def _probabilities(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, np.float64)
    wrong = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if len(wrong):
        raise PianoError(f"case {wrong[0]}: got {p[wrong[0]]}, expected a probability in [0, 1]")
    return p


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
