"""What came out of a comparison, as one object and as Parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from piano_tf.evaluation.config import INITIAL_ORDER, ORDERS, RANDOM_ORDER
from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.runs import RunRecord
from piano_tf.evaluation.search import SearchResult
from piano_tf.evaluation.significance import holm
from piano_tf.evaluation.summary import TESTED, Resampling, Row, slices_of
from piano_tf.features import LABELS

ALL = "all"

_RESULTS = pa.schema(
    [
        ("label", pa.string()),
        ("seed", pa.int64()),
        ("split", pa.string()),
        ("slice", pa.string()),
        ("metric", pa.string()),
        ("lists", pa.int64()),
        ("value", pa.float64()),
    ]
)
_NUMBERS = ("value", "low", "high", "lead", "lead_low", "lead_high", "p", "p_holm")


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that tables and report are made of.

    Attributes:
      dataset: Its name.
      split: What the rows are about.
      lists: What happened in it.
      rows: The models, then the reference orders.
      reference: The row that the others are tested against.
      ablations: Names of rows that stand in a table of their own.
      seeds: Of the models.
      resampling: Of intervals and tests.
      folds: How many logs were pooled.
      validation: Name of a row -> metric -> [S], on validation; empty where it was not looked at.
      records: Of the runs.
      searches: What was found first, if anything.
      off_policy: Why there is no off-policy estimate; empty if there is one.
    """

    dataset: str
    split: str
    lists: Lists
    rows: Sequence[Row]
    reference: str
    ablations: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    resampling: Resampling = dataclasses.field(default_factory=Resampling)
    folds: int = 1
    validation: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    records: Sequence[RunRecord] = ()
    searches: Sequence[SearchResult] = ()
    off_policy: str = ""

    def row(self, name: str) -> Row:
        (found,) = (row for row in self.rows if row.name == name)
        return found

    @property
    def models(self) -> list[Row]:
        """The rows that are neither ablations nor orders, the reference among them."""
        return [row for row in self.rows if row.name not in {*self.ablations, *ORDERS}]

    @property
    def ablated(self) -> list[Row]:
        return [row for row in self.rows if row.name in self.ablations]

    @property
    def orders(self) -> list[Row]:
        return [row for row in self.rows if row.name in ORDERS]

    def rivals(self) -> list[Row]:
        """The models but the reference; where there are none, the initial order."""
        others = [row for row in self.models if row.name != self.reference]
        return others or [self.row(INITIAL_ORDER)]

    def corrected(self) -> dict[tuple[str, str], float]:
        """(row, tested metric) -> p after Holm's correction, for every row that is tested.

        The tests of one metric are a family: the rivals and the initial order one, the ablations
        another. A rival that keeps the initial order, as a first stage does, is the same test again
        and does not count twice. That a random order is worse and the ideal one better is not
        tested.
        """
        tested = [row for row in self.models if row.name != self.reference]
        initial = self.row(INITIAL_ORDER)
        again = [row for row in tested if _keeps_the_order(row, initial)]
        rivals = [row for row in tested if row not in again]
        families = [[*rivals, initial], self.ablated]
        found: dict[tuple[str, str], float] = {}
        for family in families:
            for metric in TESTED:
                p = holm(np.array([row.leads[metric].p_value for row in family]))
                found |= {
                    (row.name, metric): float(value) for row, value in zip(family, p, strict=True)
                }
        for row in again:
            found |= {(row.name, metric): found[initial.name, metric] for metric in TESTED}
        return found


def _keeps_the_order(row: Row, initial: Row) -> bool:
    """Whether the reference leads both by as much, with the same interval, in every metric."""
    pairs = ((row.leads[metric][:3], initial.leads[metric][:3]) for metric in TESTED)
    return all(np.allclose(*pair, rtol=0, atol=1e-9, equal_nan=True) for pair in pairs)


def results_table(comparison: Comparison) -> pa.Table:
    """label, seed, split, slice, metric, lists, value: one row for each.

    `seed` is null for an order without chance, `slice` is `all` or as in the report's figure, and
    `lists` how many count: those with a positive, or all for metrics over everything shown.
    """
    rows = list(_result_rows(comparison))
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _RESULTS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_RESULTS)


def _result_rows(comparison: Comparison) -> Iterator[tuple]:
    lists = comparison.lists
    everything = np.ones(len(lists), bool)
    slices = {(part.feature, part.name): part.members for part in slices_of(lists)}
    for row in comparison.rows:
        seeds: Sequence[int | None] = comparison.seeds
        if row.name in ORDERS and row.name != RANDOM_ORDER:
            seeds = [None]
        for metric, values in row.by_seed.items():
            count = counted(lists, metric, everything)
            for seed, value in zip(seeds, values, strict=True):
                yield row.name, seed, comparison.split, ALL, metric, count, value
        for (metric, feature, name), values in row.by_slice.items():
            count = counted(lists, metric, slices[feature, name])
            for seed, value in zip(seeds, values, strict=True):
                part = f"{feature} {name}"
                yield row.name, seed, comparison.split, part, metric, count, value
        for metric, values in comparison.validation.get(row.name, {}).items():
            for seed, value in zip(seeds, values, strict=True):
                yield row.name, seed, "validation", ALL, metric, None, value


def counted(lists: Lists, metric: str, members: np.ndarray) -> int:
    """How many of some lists count for a metric."""
    for label in LABELS:
        if metric.startswith((f"{label}_ndcg", f"{label}_map", f"{label}_mrr")):
            return int((lists.any(label) & members).sum())
    return int(members.sum())


def summary_table(comparison: Comparison) -> pa.Table:
    """label, metric, value, low, high, lead, lead_low, lead_high, p, p_holm: one row for each.

    The lead is the reference's; null where nothing is compared or tested.
    """
    corrected = comparison.corrected()
    rows = []
    for row in comparison.rows:
        for metric, estimate in row.values.items():
            found = {"label": row.name, "metric": metric, **estimate._asdict()}
            if lead := row.leads.get(metric):
                found |= {"lead": lead.difference, "lead_low": lead.low, "lead_high": lead.high}
            if (row.name, metric) in corrected:
                found |= {"p": row.leads[metric].p_value, "p_holm": corrected[row.name, metric]}
            rows.append(found)
    names = [("label", pa.string()), ("metric", pa.string())]
    return pa.Table.from_pylist(rows, pa.schema([*names, *((n, pa.float64()) for n in _NUMBERS)]))
