"""What predictions are worth: one row of a comparison, in numbers.

A row is a model, trained with several seeds, or a reference order. Its value for a list is the mean
over its seeds: lists are the sample, seeds are not further lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from piano_tf.evaluation.config import IDEAL_ORDER, INITIAL_ORDER, RANDOM_ORDER
from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.off_policy import snips_of_order
from piano_tf.evaluation.predictions import (
    Predictions,
    ideal_order,
    initial_order,
    random_order,
)
from piano_tf.evaluation.probability import (
    CalibrationCurve,
    calibration_curve,
    probability_metrics,
)
from piano_tf.evaluation.ranking import list_metrics
from piano_tf.evaluation.significance import (
    RESAMPLES,
    Interval,
    Paired,
    interval,
    paired,
    ratio_interval,
)
from piano_tf.features import CLICK, LABELS
from piano_tf.propensity import ExaminationModel

# What has intervals and tests; everything else has a mean and a spread over seeds.
TESTED = tuple(f"{label}_{name}" for name in ("ndcg_10", "map_10", "mrr") for label in LABELS)
GAINS = tuple(f"{label}_ndcg_10" for label in LABELS)

# b of log p(click) + b log p(conversion | click).
TRADE_OFF = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)

_SLICES = 4
_TINY = np.finfo(np.float32).tiny


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How intervals and tests are made.

    Attributes:
      seed: Of the resampling.
      resamples: How many.
      unit: What is resampled, each `list` or each `user`.
    """

    seed: int = 0
    resamples: int = RESAMPLES
    unit: Literal["list", "user"] = "user"

    def options(self, lists: Lists, part: np.ndarray | slice = slice(None)) -> dict:
        """Keyword arguments of `significance.interval` and `paired` for some of the lists."""
        clusters = lists.user_id[part].astype(str) if self.unit == "user" else None
        return {"seed": self.seed, "resamples": self.resamples, "clusters": clusters}


class Slice(NamedTuple):
    """Some of the lists: those where a feature is from `low` to `high`.

    Attributes:
      feature: Its name, such as `history length`.
      low, high: Smallest and largest value in it.
      members: [L] boolean.
    """

    feature: str
    low: float
    high: float
    members: np.ndarray

    @property
    def name(self) -> str:
        low, high = (f"{value:.0f}" for value in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """What rows are held against.

    Attributes:
      lists: What happened.
      examination: How the lists of each log were examined, one after the other as (how many lists,
        model); empty where it is not known.
    """

    lists: Lists
    examination: Sequence[tuple[int, ExaminationModel]] = ()

    def propensity(self, ranks: np.ndarray) -> np.ndarray:
        """[L, N] how likely ranks [L, N] are examined, each in its own log."""
        ends = np.cumsum([count for count, _ in self.examination])[:-1]
        parts = zip(self.examination, np.split(ranks, ends), strict=True)
        return np.concatenate([examination.at(part) for (_, examination), part in parts])


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """What a row is made of.

    Attributes:
      name: Label of the model, or name of the order.
      scores: Label -> one [L, N] per seed; all labels have the same, but for the ideal order.
      predictions: One per seed; none of an order.
    """

    name: str
    scores: Mapping[str, Sequence[np.ndarray]]
    predictions: Sequence[Predictions] = ()

    @classmethod
    def of_model(cls, name: str, predictions: Sequence[Predictions]) -> Entry:
        scores = [said.score for said in predictions]
        return cls(name, dict.fromkeys(LABELS, scores), predictions)

    def metrics(self, lists: Lists) -> list[dict[str, np.ndarray]]:
        """Per seed: name -> [L], as `list_metrics`."""
        by_label = {
            label: [list_metrics(lists, score) for score in scores]
            for label, scores in self.scores.items()
        }
        return [
            {
                name: values
                for label, found in zip(LABELS, of_seed, strict=True)
                for name, values in found.items()
                if name.startswith(label)
            }
            for of_seed in zip(*(by_label[label] for label in LABELS), strict=True)
        ]


def orders(lists: Lists, seeds: Sequence[int]) -> list[Entry]:
    """The initial, a random (one per seed) and the ideal order."""
    initial, random = [initial_order(lists)], [random_order(lists, seed) for seed in seeds]
    return [
        Entry(INITIAL_ORDER, dict.fromkeys(LABELS, initial)),
        Entry(RANDOM_ORDER, dict.fromkeys(LABELS, random)),
        Entry(IDEAL_ORDER, {label: [ideal_order(lists, label)] for label in LABELS}),
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row of a comparison.

    Attributes:
      name: Of the model or order.
      by_seed: Metric -> [S] mean over lists (`list_metrics`), or over all (`probability_metrics`).
      values: Tested metric -> mean over seeds and lists, with its interval.
      leads: Tested metric -> by how much the reference is better; none of the reference itself.
      slices: (tested metric, feature, slice) -> gain over the initial order in it, with interval.
      by_slice: The same -> [S] mean of the metric itself.
      trade_off: [weights, 2] click and conversion NDCG@10 for each b of `TRADE_OFF`; empty for
        orders.
      calibration: Output -> curve over all seeds' predictions; none of orders.
      off_policy: Label -> estimate, and by how much the reference's is larger; empty where
        examination is not known.
    """

    name: str
    by_seed: Mapping[str, np.ndarray]
    values: Mapping[str, Interval]
    leads: Mapping[str, Paired]
    slices: Mapping[tuple[str, str, str], Interval]
    by_slice: Mapping[tuple[str, str, str], np.ndarray]
    trade_off: np.ndarray
    calibration: Mapping[str, CalibrationCurve]
    off_policy: Mapping[str, tuple[Interval, Interval]]

    def spread(self, metric: str) -> float:
        """Standard deviation over seeds, nan of one."""
        values = self.by_seed[metric]
        return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def means_of(entry: Entry, lists: Lists) -> dict[str, np.ndarray]:
    """Metric -> [S]: mean over lists with a positive, and for models the probability metrics."""
    found = [
        {name: _mean(values) for name, values in of_seed.items()}
        for of_seed in entry.metrics(lists)
    ]
    for of_seed, said in zip(found, entry.predictions, strict=False):
        of_seed |= probability_metrics(lists, said)
    return {name: np.array([of_seed[name] for of_seed in found]) for name in found[0]}


def summarise(
    entry: Entry, reference: Entry, truth: Truth, resampling: Resampling | None = None
) -> Row:
    """Everything that a report says of a row.

    Args:
      entry: What the row is made of.
      reference: What it is tested against.
      truth: What happened.
      resampling: Of intervals and tests.
    """
    resampling = resampling or Resampling()
    lists, options = truth.lists, resampling.options(truth.lists)
    own, initial = entry.metrics(lists), _over_seeds(orders(lists, ())[0].metrics(lists))
    ours, theirs = _over_seeds(own), _over_seeds(reference.metrics(lists))
    itself = entry.name == reference.name
    gains, by_slice = {}, {}
    for metric in GAINS:
        for part in slices_of(lists):
            key, members = (metric, part.feature, part.name), part.members
            gain = (ours[metric] - initial[metric])[members]
            gains[key] = interval(gain, **resampling.options(lists, members))
            by_slice[key] = np.array([_mean(of_seed[metric][members]) for of_seed in own])
    return Row(
        name=entry.name,
        by_seed=means_of(entry, lists),
        values={metric: interval(ours[metric], **options) for metric in TESTED},
        leads={}
        if itself
        else {metric: paired(theirs[metric], ours[metric], **options) for metric in TESTED},
        slices=gains,
        by_slice=by_slice,
        trade_off=np.mean([trade_off(lists, said) for said in entry.predictions], axis=0)
        if entry.predictions
        else np.zeros((0, 2)),
        calibration=_calibration(entry, lists),
        off_policy={label: _off_policy(entry, reference, truth, label, options) for label in LABELS}
        if truth.examination
        else {},
    )


def slices_of(lists: Lists) -> list[Slice]:
    """Lists in quarters of equal count by what is known of listener, query and clicked items.

    The item popularity of a list is the mean of its clicked items': lists without a click are in no
    slice of it.
    """
    clicked = lists.labels[CLICK] & lists.mask
    count = clicked.sum(axis=1)
    popularity = np.divide(
        (lists.item_popularity * clicked).sum(axis=1),
        count,
        out=np.full(len(lists), np.nan),
        where=count > 0,
    )
    features = {
        "history length": lists.history_length.astype(float),
        "query frequency": lists.query_frequency.astype(float),
        "item popularity": popularity,
    }
    return [part for feature, values in features.items() for part in quarters(feature, values)]


def quarters(feature: str, values: np.ndarray) -> list[Slice]:
    """Lists in quarters of equal count by a feature; equal values stay in one, so that few may be.

    Args:
      feature: Its name.
      values: [L]; a list whose value is nan is in no slice.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    edges = np.unique(np.quantile(known, np.arange(1, _SLICES) / _SLICES))
    number = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))
    found = []
    for part in np.unique(number[number >= 0]):
        members = number == part
        low, high = values[members].min(), values[members].max()
        found.append(Slice(feature, float(low), float(high), members))
    return found


def trade_off(lists: Lists, predictions: Predictions) -> np.ndarray:
    """[weights, 2] click and conversion NDCG@10 of log p(click) + b log p(conversion | click)."""
    click, both = (
        np.log(np.maximum(getattr(predictions, label).astype(float), _TINY)) for label in LABELS
    )
    points = []
    for weight in TRADE_OFF:
        found = list_metrics(lists, click + weight * (both - click))
        points.append([_mean(found[metric]) for metric in GAINS])
    return np.array(points)


def _over_seeds(by_seed: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([found[name] for found in by_seed], axis=0) for name in by_seed[0]}


def _mean(values: np.ndarray) -> float:
    """Over lists with a positive; nan where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _calibration(entry: Entry, lists: Lists) -> dict[str, CalibrationCurve]:
    if not entry.predictions:
        return {}
    shown, times = lists.mask.any(axis=1), len(entry.predictions)
    found = {}
    for label in LABELS:
        of_items, of_lists = lists.labels[label][lists.mask], lists.any(label)[shown]
        said = [getattr(one, label)[lists.mask] for one in entry.predictions]
        found[label] = calibration_curve(np.tile(of_items, times), np.concatenate(said))
        said = [getattr(one, f"list_{label}")[shown] for one in entry.predictions]
        found[f"list_{label}"] = calibration_curve(np.tile(of_lists, times), np.concatenate(said))
    return found


def _off_policy(
    entry: Entry, reference: Entry, truth: Truth, label: str, options: Mapping
) -> tuple[Interval, Interval]:
    own, denominators = _snips(entry, truth, label)
    better, _ = _snips(reference, truth, label)
    return (
        ratio_interval(own, denominators, **options),
        ratio_interval(better - own, denominators, **options),
    )


def _snips(entry: Entry, truth: Truth, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators, mean over seeds, and denominators of all lists."""
    found = [
        snips_of_order(truth.lists, score, truth.propensity, label=label)
        for score in entry.scores[label]
    ]
    return np.mean([one.numerators for one in found], axis=0), found[0].denominators
