"""What a model is worth, as sums over lists: so that any figure has an interval, and any change.

A figure is sum(above) / sum(below) over lists. NDCG and MAP are means over lists with a positive,
group AUC is weighted by shown items, calibration is mean prediction over mean label. AUC is no such
ratio, but to first order it is one: a list counts by what its own cases add to it,

  psi_l = sum over its positives of (V - AUC) / m  +  sum over its negatives of (W - AUC) / n

where V is the share of all n negatives that a positive beats, W the share of all m positives that
beat a negative (N. Obuchowski, Nonparametric Analysis of Clustered ROC Curve Data, Biometrics 53,
1997). `below` knows the truth alone, so that the difference of two models' `above` is a figure too:
the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from piano_tf.data.logs import read_columns, read_spec
from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.predictions import Predictions
from piano_tf.evaluation.probability import auc_by_list
from piano_tf.evaluation.ranking import MAP_AT, NDCG_AT, average_precision, ndcg, ranks_of
from piano_tf.evaluation.significance import Interval, jackknife_interval
from piano_tf.evaluation.summary import quarters, slices_of
from piano_tf.features import LABELS
from tfx_pipeline.gates.findings import spelt

ALL_LISTS = "all lists"
_DECLARED = ("user_", "context_")  # columns that a dataset may have of a listener or a request
_MOST_VALUES = 12  # of a column that have slices of their own
# Of fewer listeners an interval is no more than a guess.
LEAST_LISTENERS = 10


class Measure(NamedTuple):
    """A figure, list by list.

    Attributes:
      above: [L]; nan for a list that does not count.
      below: [L], of the truth alone.
      least, most: What the figure can be.
    """

    above: np.ndarray
    below: np.ndarray
    least: float = 0.0
    most: float = 1.0

    @property
    def lists(self) -> int:
        """How many count."""
        return int(np.count_nonzero(~np.isnan(self.above)))

    @property
    def value(self) -> float:
        """The figure over lists; nan where none counts."""
        counted = ~np.isnan(self.above)
        total = self.below[counted].sum()
        return float(self.above[counted].sum() / total) if total > 0 else np.nan

    def minus(self, other: Measure) -> Measure:
        """What is gained on another model's."""
        least, most = self.least - other.most, self.most - other.least
        return Measure(self.above - other.above, self.below, least, most)

    def interval(self, users: np.ndarray, level: float) -> Interval:
        """The figure over lists, and how sure one may be of it.

        Args:
          users: [L], whose lists they are; a listener's lists are alike, and count as a whole.
          level: Coverage.

        Returns:
          The limits are nan where too few listeners count, and never beyond what can be.
        """
        found = jackknife_interval(self.above, self.below, users, level)
        if len(np.unique(users[~np.isnan(self.above)])) < LEAST_LISTENERS:
            return Interval(found.value, np.nan, np.nan)
        low, high = (float(np.clip(limit, self.least, self.most)) for limit in found[1:])
        return Interval(found.value, low, high)


class Part(NamedTuple):
    """Some of the lists.

    Attributes:
      name: What they have in common, such as `history length 0 to 3`.
      members: [L] boolean.
    """

    name: str
    members: np.ndarray


def parts_of(lists: Lists, log_dir: Path, split: str) -> list[Part]:
    """All lists, then slices of them.

    Quarters by history length, by how often the query was asked in training and by how often what
    was clicked was clicked there (`piano_tf.evaluation.summary.slices_of`); and of each column that
    the log declares of a listener or of a request quarters, where it is a number, and where it is
    text its values, of which the rarer ones are one slice where there are many.

    Args:
      lists: Of the split.
      log_dir: The log.
      split: Which part of it.
    """
    known = [Part(f"{one.feature} {one.name}", one.members) for one in slices_of(lists)]
    everything = Part(ALL_LISTS, np.ones(len(lists), bool))
    return [everything, *known, *_by_column(lists, log_dir, split)]


def _by_column(lists: Lists, log_dir: Path, split: str) -> Iterator[Part]:
    for column in read_spec(log_dir).columns(labels=False):
        if not column.name.startswith(_DECLARED) or column.name == "user_id":
            continue
        batches = read_columns(log_dir, split, [column.name])
        parts = [batch[column.name].to_numpy(zero_copy_only=False) for batch in batches]
        values = np.concatenate(parts)
        if column.type == "float":
            sliced = _by_number(column.name, values)
        else:
            sliced = _by_value(values, lists.user_id)
        found = [Part(f"{column.name} {name}", members) for name, members in sliced]
        if len(found) > 1:  # one alone is all lists
            yield from found


def _by_number(feature: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for one in quarters(feature, values.astype(float)):
        ends = [spelt(value) for value in (one.low, one.high)]
        yield " to ".join(dict.fromkeys(ends)), one.members


def _by_value(values: np.ndarray, users: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The values; where they are many, the most frequent, then all the others as one.

    Of too few listeners for an interval, a slice of many would say nothing, and widen the others'.
    """
    known, number, count = np.unique(values, return_inverse=True, return_counts=True)
    chosen = np.arange(len(known))
    if len(known) > _MOST_VALUES:
        _, user = np.unique(users.astype(str), return_inverse=True)
        pairs = np.unique(np.stack([number, user]), axis=1)
        enough = np.bincount(pairs[0]) >= LEAST_LISTENERS
        chosen = np.flatnonzero(enough)[np.argsort(-count[enough], kind="stable")][:_MOST_VALUES]
    for one in chosen:
        yield known[one] or "unknown", number == one
    others = ~np.isin(number, chosen)
    if len(chosen) and others.any():
        yield "(others)", others


def order_measures(lists: Lists, score: np.ndarray) -> dict[str, Measure]:
    """NDCG and MAP of an order, by name.

    Args:
      lists: What happened.
      score: [L, N] orders each list.
    """
    ranks, ones = ranks_of(score, lists.mask), np.ones(len(lists))
    found = {}
    for label in LABELS:
        truth = lists.labels[label], ranks, lists.mask
        found |= {f"{label} NDCG@{k}": Measure(ndcg(*truth, k), ones) for k in NDCG_AT}
        found |= {f"{label} MAP@{k}": Measure(average_precision(*truth, k), ones) for k in MAP_AT}
    return found


def measures(lists: Lists, said: Predictions) -> dict[str, Measure]:
    """Every figure of a model, by name: its order's and its probabilities', of items and of lists.

    Args:
      lists: What happened.
      said: Of the same lists.
    """
    found = order_measures(lists, said.score)
    real, rows = lists.mask, np.nonzero(lists.mask)[0]
    everyone = np.arange(len(lists))
    for label in LABELS:
        truth, p = lists.labels[label], getattr(said, label).astype(float)
        found[f"{label} AUC"] = _auc(truth[real], p[real], rows, len(lists))
        found[f"{label} group AUC"] = _group_auc(auc_by_list(truth, p, real), real)
        found[f"{label} calibration"] = _calibration(truth & real, np.where(real, p, 0))
        of_list, p_list = lists.any(label), getattr(said, f"list_{label}").astype(float)
        found[f"list {label} AUC"] = _auc(of_list, p_list, everyone, len(lists))
        found[f"list {label} calibration"] = _calibration(
            of_list[:, np.newaxis], p_list[:, np.newaxis]
        )
    return found


def _calibration(truth: np.ndarray, p: np.ndarray) -> Measure:
    return Measure(p.sum(axis=1), truth.sum(axis=1).astype(float), most=np.inf)


def _group_auc(by_list: np.ndarray, mask: np.ndarray) -> Measure:
    shown = mask.sum(axis=1).astype(float)
    return Measure(by_list * shown, shown)


def _auc(y: np.ndarray, p: np.ndarray, rows: np.ndarray, count: int) -> Measure:
    """AUC over all cases, of which case i is of list `rows[i]`; a tie is half right."""
    ones = np.ones(count)
    positive, negative = np.sort(p[y]), np.sort(p[~y])
    if not (len(positive) and len(negative)):
        return Measure(np.full(count, np.nan), ones)
    beaten = _below(negative, p[y])  # V
    beating = 1 - _below(positive, p[~y])  # W
    auc = beaten.mean()
    added = np.bincount(rows[y], (beaten - auc) / len(positive), count)
    added += np.bincount(rows[~y], (beating - auc) / len(negative), count)
    return Measure(auc + count * added, ones)


def _below(values: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The share of sorted values below each p, equal ones by half."""
    sides = (np.searchsorted(values, p, side) for side in ("left", "right"))
    return sum(sides) / (2 * len(values))
