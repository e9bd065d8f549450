"""The tables of a comparison for people: the same in Markdown, HTML and a terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import rich.box
import rich.markup
import rich.table
from rich.console import Console
from rich.text import Text

from piano_tf.evaluation.config import INITIAL_ORDER, ORDERS
from piano_tf.evaluation.ranking import MAP_AT, NDCG_AT
from piano_tf.evaluation.results import Comparison
from piano_tf.evaluation.significance import Interval, Paired
from piano_tf.evaluation.summary import GAINS, Row
from piano_tf.features import LABELS, OUTPUTS

_LIST_METRICS = (*(f"ndcg_{k}" for k in NDCG_AT), *(f"map_{k}" for k in MAP_AT), "mrr")
_ITEM_PROBABILITY = ("auc", "group_auc", "log_loss", "ece", "ece_by_chance")
_LIST_PROBABILITY = ("auc", "log_loss", "ece", "ece_by_chance")
_NAMES = {
    "auc": "AUC",
    "group_auc": "group AUC",
    "log_loss": "log loss",
    "ece": "ECE",
    "ece_by_chance": "ECE by chance",
}
_NONE = "-"


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in rows.

    Attributes:
      title: What is in it.
      caption: How to read it, in a sentence or two.
      header: Of the columns; the first names the rows.
      rows: Cells.
    """

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As GitHub's Markdown.

        >>> print(Table("Sizes", "", ("what", "size"), [("a|b", "1")]).markdown())
        | what | size |
        |---|---:|
        | a\\|b | 1 |
        """
        rule = "---|" + "---:|" * (len(self.header) - 1)
        lines = [self.header, *self.rows]
        texts = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        ]
        return "\n".join([texts[0], f"|{rule}", *texts[1:]])

    def for_terminal(self) -> Text:
        """For a terminal."""
        table = rich.table.Table(title=self.title, box=rich.box.SIMPLE_HEAD)
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number else "left", no_wrap=True)
        for line in self.rows:
            table.add_row(*map(rich.markup.escape, line))
        return whole(table)


def whole(table: rich.table.Table) -> Text:
    """The table, as wide as it needs to be in a narrow terminal too, without blanks at line ends.

    To be printed with `soft_wrap`.
    """
    wide = Console(width=1000)
    table.width = wide.measure(table).maximum
    lines = []
    for segments in wide.render_lines(table, pad=False):
        line = Text.assemble(*((one.text, one.style or "") for one in segments))
        line.rstrip()
        lines.append(line)
    return Text("\n").join(lines)


def name_of(metric: str) -> str:
    """A metric without its label, as people write it.

    >>> name_of("ndcg_10"), name_of("mrr"), name_of("group_auc")
    ('NDCG@10', 'MRR', 'group AUC')
    """
    return _NAMES.get(metric, metric.upper().replace("_", "@"))


def ranked(rows: Iterable[Row]) -> list[Row]:
    """The best first, by the mean of click and conversion NDCG@10; one that is nan last."""

    def quality(row: Row) -> float:
        value = float(np.mean([row.values[metric].value for metric in GAINS]))
        return math.inf if math.isnan(value) else -value

    return sorted(rows, key=quality)


def quality_table(comparison: Comparison, metric: str, *, ablations: bool = False) -> Table:
    """A tested metric of click and of conversion: intervals, the reference's lead, p.

    Args:
      comparison: What came out.
      metric: `ndcg_10`, `map_10` or `mrr`.
      ablations: Whether the rows are the ablations, or the models and orders.
    """
    reference, corrected = comparison.reference, comparison.corrected()
    if ablations:
        rows = [comparison.row(reference), *ranked(comparison.ablated)]
    else:
        rows = [*ranked(comparison.models), *comparison.orders]
    several = len(comparison.seeds) > 1
    header = ["model"]
    for label in LABELS:
        header += [f"{label} {name_of(metric)}", *(["± seeds"] if several else [])]
        header += [f"lead of {reference}", "p"]
    body = []
    for row in rows:
        cells = [row.name]
        for label in LABELS:
            key = f"{label}_{metric}"
            cells.append(_interval(row.values[key]))
            if several:
                cells.append(_number(row.spread(key)))
            cells += [
                _lead(row.leads.get(key)),
                _p(corrected.get((row.name, key))),
            ]
        body.append(cells)
    what = f"{reference} without one of its parts, or with another" if ablations else "Models"
    return Table(
        f"{what}: {name_of(metric)}",
        f"Mean over lists and seeds with its 95 % interval. The lead is by how much {reference} "
        "is better, list by list, with the interval of that difference. p says how likely a lead "
        "as far from 0 is by chance alone; it is corrected for the number of rows tested, the "
        "intervals are not.",
        header,
        body,
    )


def all_metrics_table(comparison: Comparison, label: str) -> Table:
    """Every ranking metric of a label."""
    rows = [*ranked(comparison.models), *ranked(comparison.ablated), *comparison.orders]
    names = [f"{label}_{metric}" for metric in _LIST_METRICS]
    return Table(
        f"All ranking metrics: {label}",
        "Mean over lists with a positive" + _and_spread(comparison),
        ["model", *map(name_of, _LIST_METRICS)],
        [[row.name, *(_with_spread(row, name) for name in names)] for row in rows],
    )


def probability_table(comparison: Comparison, *, of_lists: bool) -> Table:
    """How good the probabilities are, of items or of whole lists."""
    metrics = _LIST_PROBABILITY if of_lists else _ITEM_PROBABILITY
    keys = {
        f"{label} {name_of(metric)}": f"{'list_' if of_lists else ''}{label}_{metric}"
        for label in LABELS
        for metric in metrics
    }
    rows = [*ranked(comparison.models), *ranked(comparison.ablated)]
    what = "P(at least one in the list)" if of_lists else "P(click) and P(conversion) of items"
    return Table(
        f"Probabilities: {what}",
        "AUC: larger is better; log loss and ECE (expected calibration error): smaller is better. "
        "Over everything shown" + _and_spread(comparison),
        ["model", *keys],
        [[row.name, *(_with_spread(row, key) for key in keys.values())] for row in rows],
    )


def one_model_tables(comparison: Comparison) -> list[Table]:
    """The reference beside the orders: ranking, gains, probabilities, and any off-policy value."""
    model, initial = comparison.row(comparison.reference), comparison.row(INITIAL_ORDER)
    corrected = comparison.corrected()
    orders = [row.name.removesuffix(" order") for row in comparison.orders]
    ranking, gains, probabilities = [], [], []
    for label in LABELS:
        for metric in _LIST_METRICS:
            key, name = f"{label}_{metric}", f"{label} {name_of(metric)}"
            tested = key in model.values
            own = _interval(model.values[key]) if tested else _with_spread(model, key)
            ranking.append([name, own, *(_with_spread(row, key) for row in comparison.orders)])
            if tested:
                p = _p(corrected[INITIAL_ORDER, key])
                gains.append([name, _lead(initial.leads[key]), p])
    for output in OUTPUTS:
        cells = [_with_spread(model, f"{output}_{metric}") for metric in _ITEM_PROBABILITY]
        probabilities.append([output.replace("_", " "), *cells])
    return [
        Table(
            "How well lists are ordered (95 % intervals)",
            "",
            ["metric", model.name, *orders],
            ranking,
        ),
        Table("Gain over the initial order (95 % intervals)", "", ["metric", "gain", "p"], gains),
        Table(
            "How good probabilities are",
            "",
            ["output", *map(name_of, _ITEM_PROBABILITY)],
            probabilities,
        ),
        *([] if comparison.off_policy else [off_policy_table(comparison)]),
    ]


def off_policy_table(comparison: Comparison) -> Table:
    """What each order would have been worth."""
    reference = comparison.reference
    header = ["model"]
    for label in LABELS:
        header += [f"{label}", f"lead of {reference}"]
    rows = [*ranked(comparison.models), *ranked(comparison.ablated)]
    rows += [row for row in comparison.orders if row.name != ORDERS[-1]]
    return Table(
        "Off-policy: the share of what listeners wanted that they would have seen",
        "Self-normalised inverse propensity scores (SNIPS). Only where lists were really shown in "
        "their logged order, and only if a click is an examination, which depends on the rank "
        "alone, times a relevance. Intervals hold the estimated examination for exact.",
        header,
        [
            [
                row.name,
                *(
                    cell
                    for label in LABELS
                    for cell in (
                        _interval(row.off_policy[label][0]),
                        _NONE
                        if row.name == reference
                        else _interval(row.off_policy[label][1], signed=True),
                    )
                ),
            ]
            for row in rows
        ],
    )


def training_table(comparison: Comparison) -> Table:
    """What the models cost, and the score that validation chose."""
    rows = []
    for row in [*ranked(comparison.models), *ranked(comparison.ablated)]:
        records = [record for record in comparison.records if record.label == row.name]
        seconds = np.mean([record.seconds for record in records])
        epochs = np.mean([record.epochs for record in records])
        weights = sorted({record.score.conversion for record in records})
        chosen = ", ".join(f"{weight:g}" for weight in weights)
        rows.append([row.name, f"{seconds:.0f}", f"{epochs:.1f}", chosen])
    return Table(
        "Training",
        "Means over runs. b is the weight of log p(conversion | click) beside log p(click) in the "
        "ranking score, chosen on validation in each run.",
        ["model", "seconds a run", "epochs", "b"],
        rows,
    )


def search_table(comparison: Comparison) -> Table:
    """What the search found."""
    keys = list(dict.fromkeys(key for found in comparison.searches for key in found.values))
    return Table(
        "Settings found on validation",
        "The same space and the same budget for every model; with several logs one line each.",
        ["model", *keys, "validation NDCG@10", "trials"],
        [
            [
                found.label,
                *(_setting(found.values[key]) for key in keys),
                _number(found.ndcg_10),
                str(found.trials),
            ]
            for found in comparison.searches
        ],
    )


def headline(comparison: Comparison) -> list[str]:
    """What came out, in a sentence for click and one for conversion."""
    corrected = comparison.corrected()
    reference = comparison.row(comparison.reference)
    sentences = []
    for metric, label in zip(GAINS, LABELS, strict=True):
        rival = max(comparison.rivals(), key=lambda row: row.values[metric].value)
        lead, p = rival.leads[metric], corrected[rival.name, metric]
        initial = comparison.row(INITIAL_ORDER).values[metric].value
        same = rival.name == INITIAL_ORDER
        against = "" if same else f"; the initial order has {_number(initial)}"
        best = "the initial order" if same else f"the best rival, {rival.name},"
        verdict = "apart" if p < 0.05 else "not told apart"
        sentences.append(
            f"{label} NDCG@10: {reference.name} has {_number(reference.values[metric].value)}, "
            f"{best} {_number(rival.values[metric].value)}{against}. The lead is "
            f"{_lead(lead)}, p = {_p(p)}: the two are {verdict}."
        )
    return sentences


def _and_spread(comparison: Comparison) -> str:
    return ", ± its standard deviation over seeds." if len(comparison.seeds) > 1 else "."


def _with_spread(row: Row, metric: str) -> str:
    if metric not in row.by_seed:
        return _NONE
    value, spread = _number(float(np.mean(row.by_seed[metric]))), row.spread(metric)
    return value if math.isnan(spread) else f"{value} ± {_number(spread)}"


def _number(value: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return _NONE
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def _interval(found: Interval, *, signed: bool = False) -> str:
    value, low, high = (_number(x, signed=signed) for x in found)
    return value if low == _NONE else f"{value} [{low}, {high}]"


def _lead(found: Paired | None) -> str:
    return _NONE if found is None else _interval(Interval(*found[:3]), signed=True)


def _p(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def _setting(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
