"""What came out of an experiment: tables, a plot, and the file that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from scipy import stats

from piano_tf.evaluation.tables import Table
from piano_tf.experiment.measures import (
    CTR,
    CVR,
    LEVEL,
    MEASURES,
    PLAYS,
    Cuped,
    Lift,
    Measure,
    Sums,
    bootstrap_lift,
    buckets,
    cuped_lift,
    sums,
)
from piano_tf.files import replacing
from piano_tf.pages import INK, STYLE, svg
from piano_tf.simulation.queries import FAMILIES, Kind

RESULTS_FILE = "results.md"
_NONE = "-"


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that happened.

    Attributes:
      listeners: [U] ids.
      tables: Policy -> its lists, `piano_tf.experiment.traffic.SCHEMA`, of all listeners.
      before: The lists of the log.
      assigned: Policies of the experiment proper; the others are compared in truth only.
      control: The one of them that lifts are measured against.
      reference: A policy that every other is measured against as well, in truth.
      first_day, days: When.
      salt: Of the assignment.
      seed: Of resampling.
      aa: Experiments of the control against itself.
    """

    listeners: Sequence[str]
    tables: Mapping[str, pa.Table]
    before: pa.Table
    assigned: Sequence[str]
    control: str
    reference: str | None
    first_day: int
    days: int
    salt: str
    seed: int
    aa: int

    def others(self, policy: str) -> list[str]:
        """All policies but one."""
        return [name for name in self.tables if name != policy]

    def bucket(self, policy: str) -> np.ndarray:
        """[U] whether a listener is assigned to a policy."""
        assigned = buckets(self.listeners, len(self.assigned), self.salt)
        return assigned == list(self.assigned).index(policy)

    def of(self, policy: str, measure: Measure) -> Sums:
        """Sums over all listeners."""
        return self._sums(self.tables[policy], measure)

    def _sums(self, lists: pa.Table, measure: Measure) -> Sums:
        span = range(self.first_day, self.first_day + self.days)
        return sums(lists, measure, len(self.listeners), span)

    def _of_the_log(self, measure: Measure) -> Sums:
        return sums(self.before, measure, len(self.listeners), range(self.first_day))

    def in_bucket(self, policy: str, measure: Measure) -> Sums:
        """Sums over the policy's own listeners."""
        return self.of(policy, measure).of(self.bucket(policy))

    def measured(self, policy: str, measure: Measure) -> Lift:
        """The lift between the buckets, without adjustment."""
        own, controls = self.in_bucket(policy, measure), self.in_bucket(self.control, measure)
        return bootstrap_lift(own, controls, self.seed)

    def adjusted(self, policy: str, measure: Measure) -> Cuped:
        """The lift between the buckets, adjusted for the time of the log."""
        past = self._of_the_log(measure)
        return cuped_lift(
            self.in_bucket(policy, measure),
            self.in_bucket(self.control, measure),
            past.of(self.bucket(policy)),
            past.of(self.bucket(self.control)),
        )

    def truth(
        self, policy: str, measure: Measure, *, over: str | None = None, rows: str | None = None
    ) -> Lift:
        """The lift that is to be expected, everybody having met both policies.

        Args:
          policy: Whose.
          measure: Of what.
          over: Over which policy; the control unless given.
          rows: Lists of which of `SLICES`; all unless given.
        """

        def expected(name: str) -> Sums:
            table = self.tables[name]
            if rows is not None:
                table = table.filter(pa.array(SLICES[rows](self.tables[self.control])))
            return self._sums(table, measure.expected())

        one, other = expected(policy), expected(over or self.control)
        return bootstrap_lift(one, other, self.seed, paired=True)

    def false_positives(self, measure: Measure) -> np.ndarray:
        """[aa] p of experiments in which half of the control's listeners are set against the rest.

        Each is assigned by a salt of its own.
        """
        during, past = self.of(self.control, measure), self._of_the_log(measure)
        found = []
        for number in range(self.aa):
            half = buckets(self.listeners, 2, f"{self.salt} A/A {number}") == 0
            found.append(
                cuped_lift(during.of(half), during.of(~half), past.of(half), past.of(~half)).p
            )
        return np.array(found)


Slice = Callable[[pa.Table], np.ndarray]
"""Lists -> which of them."""


def _kind(*kinds: Kind) -> Slice:
    return lambda table: np.isin(table["kind"].to_numpy(), kinds)


def _history(least: int, most: int) -> Slice:
    def some(table: pa.Table) -> np.ndarray:
        return (table["history"].to_numpy() >= least) & (table["history"].to_numpy() <= most)

    return some


SLICES = {
    **{family: _kind(*kinds) for family, kinds in FAMILIES.items()},
    "history of 0 to 9": _history(0, 9),
    "history of 10 to 29": _history(10, 29),
    "history of 30 or more": _history(30, 10**9),
}
"""Which lists, by their query and by what the control's listener had done before."""


def bucket_table(experiment: Experiment, measure: Measure) -> Table:
    """The experiment proper."""
    rows = []
    for name in experiment.assigned:
        own = experiment.in_bucket(name, measure)
        row = [name, f"{int(experiment.bucket(name).sum()):,}", f"{own.ratio:.4f}"]
        if name == experiment.control:
            row += [_NONE] * 5
        else:
            plain, adjusted = experiment.measured(name, measure), experiment.adjusted(name, measure)
            row += [
                _lift(plain),
                _lift(adjusted.lift),
                _p(adjusted.p),
                f"{adjusted.detectable:.1%}",
                _days(adjusted.days),
            ]
        rows.append(row)
    header = ["policy", "listeners", measure.name, "lift", "with CUPED", "p", "detectable", "days"]
    return Table(
        f"{measure.name} in the experiment",
        "Each listener met one policy. Lifts over the control with 95 % intervals: bootstrap over "
        "listeners, and Welch's after CUPED; the least lift that is found in 80 % of experiments "
        "of this size; the days that it would take the same listeners to find the lift that was "
        "measured.",
        header,
        rows,
    )


def truth_table(experiment: Experiment) -> Table:
    """What was to be expected."""
    rows = []
    for name in experiment.tables:
        row = [name]
        for measure in (CTR, CVR, PLAYS):
            row.append(f"{experiment.of(name, measure.expected()).ratio:.4f}")
            is_control = name == experiment.control
            row.append(_NONE if is_control else _lift(experiment.truth(name, measure)))
        rows.append(row)
    header = ["policy"]
    for measure in (CTR, CVR, PLAYS):
        header += [measure.name, "lift"]
    return Table(
        "The truth",
        "Every listener met every policy, each in a world of its own; expected rates, which only "
        "the world knows. Lifts over the control with 95 % intervals: bootstrap over listeners, as "
        "pairs.",
        header,
        rows,
    )


def slice_table(experiment: Experiment, measure: Measure, over: str) -> Table:
    """True lifts by kind of query and by length of history."""
    control = experiment.tables[experiment.control]
    some = [name for name, rows in SLICES.items() if rows(control).any()]
    rows = [
        [
            name,
            *(
                _lift(experiment.truth(name, measure, over=over, rows=rows))
                for rows in (None, *some)
            ),
        ]
        for name in experiment.others(over)
    ]
    return Table(
        f"True lift of {measure.name} over {over}, by query and history",
        f"Of every list, and of some; histories as they are under {experiment.control}.",
        ["policy", "all", *some],
        rows,
    )


def aa_table(experiment: Experiment) -> Table:
    """How often a difference is found where there is none."""
    low, high = stats.binom.interval(LEVEL, experiment.aa, 1 - LEVEL) / np.array(experiment.aa)
    rows = []
    for measure in MEASURES:
        share = (experiment.false_positives(measure) < 1 - LEVEL).mean()
        rows.append([measure.name, f"{share:.1%}", f"{low:.1%} to {high:.1%}"])
    return Table(
        f"{experiment.aa} A/A experiments",
        f"Half of the listeners against the other half, all shown what {experiment.control} "
        "shows: the share of experiments in which p, after CUPED, is below 0.05, and where it is "
        "to lie in 95 % of cases if that happens once in 20 times.",
        ["measure", "p < 0.05", "expected"],
        rows,
    )


def _lift(lift: Lift) -> str:
    if np.isnan(lift.value):
        return _NONE
    interval = "" if np.isnan(lift.low) else f" [{lift.low:+.1%}, {lift.high:+.1%}]"
    return f"{lift.value:+.1%}{interval}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _days(days: float) -> str:
    return f"{days:,.0f}" if days < 10_000 else "never" if np.isinf(days) else "> 10,000"


def lift_by_day(experiment: Experiment) -> Figure:
    """True and measured lifts, cumulated day by day."""
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, measure in zip(panels, (CTR, CVR), strict=True):
        control = _by_day(experiment, experiment.control, measure)
        tested = [name for name in experiment.assigned if name != experiment.control]
        for number, name in enumerate(tested):
            lift = _by_day(experiment, name, measure) / control - 1
            truth = _by_day(experiment, name, measure.expected(), everybody=True)
            truth = truth / _by_day(
                experiment, experiment.control, measure.expected(), everybody=True
            )
            days = 1 + np.arange(len(lift))
            axes.plot(days, 100 * lift, color=f"C{number}", label=name)
            axes.plot(days, 100 * (truth - 1), color=f"C{number}", linestyle=":")
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_title(f"lift of {measure.name}, %: measured (lines), true (dots)")
        axes.set_xlabel("days")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def _by_day(
    experiment: Experiment, policy: str, measure: Measure, *, everybody: bool = False
) -> np.ndarray:
    """[days] the ratio of all lists up to each day."""
    table = experiment.tables[policy]
    day = table["day"].to_numpy() - experiment.first_day
    value = table[measure.of].to_numpy().astype(float)
    if not everybody:
        own = experiment.bucket(policy)[table["listener"].to_numpy()]
        day, value = day[own], value[own]
    days = experiment.days
    done = np.cumsum(np.bincount(day, value, minlength=days))
    shown = np.cumsum(np.bincount(day, minlength=days))
    return done / np.maximum(shown, 1)


def _rows(experiment: Experiment) -> Iterator[dict]:
    """Every figure, for other programs."""
    for name in experiment.tables:
        for measure in MEASURES:
            row: dict[str, str | float] = {"policy": name, "measure": measure.name}
            row["expected"] = experiment.of(name, measure.expected()).ratio
            if name in experiment.assigned:
                row["value"] = experiment.in_bucket(name, measure).ratio
            if name != experiment.control:
                lifts = {"true": experiment.truth(name, measure)}
                if name in experiment.assigned:
                    adjusted = experiment.adjusted(name, measure)
                    row |= {"p": adjusted.p, "detectable": adjusted.detectable}
                    row |= {"days_needed": adjusted.days}
                    lifts |= {"lift": experiment.measured(name, measure), "cuped": adjusted.lift}
                for prefix, lift in lifts.items():
                    row |= {f"{prefix}_{part}": getattr(lift, part) for part in lift._fields}
            yield row


def write_experiment(experiment: Experiment, output: Path) -> Path:
    """Writes `results.md`, `results.parquet` and `lift_by_day.svg`; returns the first."""
    shown = [
        truth_table(experiment),
        *(bucket_table(experiment, measure) for measure in (CTR, CVR, PLAYS)),
        *(
            slice_table(experiment, measure, over)
            for over in dict.fromkeys((experiment.control, experiment.reference))
            if over is not None
            for measure in (CTR, CVR)
        ),
    ]
    if experiment.aa:
        shown.append(aa_table(experiment))
    lists = experiment.tables[experiment.control].num_rows
    facts = (
        f"{experiment.days} days, {lists:,} lists of {len(experiment.listeners):,} listeners; "
        f"control: {experiment.control}. CTR: share of lists with a click. CVR: share of lists "
        "with a conversion. Plays: conversions."
    )
    sections = ["# Experiment", facts]
    for table in shown:
        sections += [f"## {table.title}", table.caption, table.markdown()]
    sections += ["![Lift by day: measured (lines) and true (dots)](lift_by_day.svg)"]
    with replacing(output / "lift_by_day.svg") as partial, matplotlib.rc_context(STYLE):
        partial.write_bytes(svg(lift_by_day(experiment)))
    with replacing(output / "results.parquet") as partial:
        rows = list(_rows(experiment))
        columns = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({n: [row.get(n) for row in rows] for n in columns}), partial)
    with replacing(output / RESULTS_FILE) as partial:
        partial.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return output / RESULTS_FILE
