"""The model card: what a model was trained on, what it is worth, and what every gate said of it.

One HTML file that needs nothing else, for blessed and refused models alike.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from ml_metadata.proto import metadata_store_pb2 as mlmd

from piano_tf.data.logs import read_columns, read_spec
from piano_tf.evaluation.tables import Table
from piano_tf.features import LABELS, SPLITS
from piano_tf.files import replacing
from piano_tf.pages import templates
from tfx_pipeline import trainer
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.gates.measures import ALL_LISTS
from tfx_pipeline.gates.model import Comparison, Estimate, Figure
from tfx_pipeline.ingestion import LISTS
from tfx_pipeline.lineage import day_of
from tfx_pipeline.run_folder import (
    BLESSED_SENTENCE,
    CARD_FILE,
    WITHDRAWN_SENTENCE,
    folder_of,
    pushed_sentence,
)
from tfx_pipeline.summary import RunSummary

_NONE = "-"
# Of a slice a page shows these, and `comparison.json` beside the blessing everything.
_OF_SLICES = (
    *(f"{label} NDCG@10" for label in LABELS),
    *(f"{label} AUC" for label in LABELS),
    *(f"{label} calibration" for label in LABELS),
    "list click AUC",
    "list click calibration",
)
_VERSIONS = ("tensorflow", "tfx")


@dataclasses.dataclass(frozen=True)
class Span:
    """What there is of a split.

    Attributes:
      split: Which.
      lists: How many.
      first, last: When the first and the last was shown, in Unix seconds.
    """

    split: str
    lists: int
    first: int
    last: int

    @classmethod
    def read(cls, log_dir: Path, split: str) -> Span:
        """Reads the times of a log's split."""
        batches = [one["timestamp"] for one in read_columns(log_dir, split, ["timestamp"])]
        ends = [pc.min_max(times).as_py() for times in batches if len(times)]
        return cls(
            split,
            sum(map(len, batches)),
            min(end["min"] for end in ends),
            max(end["max"] for end in ends),
        )


def write_card(config: PipelineConfig, summary: RunSummary) -> Path:
    """Writes the card of the newest run's model.

    Args:
      config: Of the run.
      summary: What came of it.

    Returns:
      The page, in a folder of the run's own.
    """
    folder = folder_of(config, summary.lineage.run)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CARD_FILE) as partial:
        partial.write_text(html(config, summary), encoding="utf-8")
    return folder / CARD_FILE


def html(config: PipelineConfig, summary: RunSummary) -> str:
    """The page."""
    spans = [Span.read(config.log, split) for split in SPLITS]
    model = summary.lineage.outputs["Trainer", "Model"].id
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    return (
        templates("tfx_pipeline")
        .get_template("card.html.jinja")
        .render(
            title=f"Model {model} on {read_spec(config.log).dataset}",
            facts=f"Run of {summary.lineage.run}; {versions}.",
            verdicts=list(_verdicts(summary)),
            complaints=summary.reasons,
            tables=[
                _data_table(spans, config.log),
                _window_table(summary.lineage.window, config),
                _bounds_table(summary),
                _changes_table(summary.compared),
                _figures_table(summary.compared),
                *_slice_tables(summary.compared),
                _lineage_table(summary),
                _limits_table(config),
            ],
            config=config.config.model_dump_json(indent=2),
        )
    )


def _verdicts(summary: RunSummary) -> Iterator[str]:
    """What each gate said, and what came of it."""
    yield "Data gate: passed; what fails it is never trained on."
    yield _start(summary)
    if summary.withdrawn:
        yield WITHDRAWN_SENTENCE
    else:
        yield BLESSED_SENTENCE if summary.blessed else "Model gate: not blessed."
    served = summary.served
    if served.passed:
        yield (
            f"Serving gate: {served.requests} golden requests answered over gRPC, {served.times()}."
        )
    else:
        yield "Serving gate: not fit to be served."
    if summary.pushed is not None:
        yield pushed_sentence(summary.pushed.name)
    elif summary.blessed and served.passed:
        yield "Not pushed: an earlier run did."
    else:
        yield "Not pushed: what is served stays as it is."


def _start(summary: RunSummary) -> str:
    """Where training began."""
    earlier, last = summary.started_from, summary.lineage.baseline
    if earlier is None:
        return "Training: from scratch."
    model = f"model {last.id}, " if last and Path(earlier).is_relative_to(last.uri) else ""
    return f"Training: a warm start from {model}{earlier}."


def _data_table(spans: Sequence[Span], logs: Path) -> Table:
    rows = [(one.split, f"{one.lists:,}", _time(one.first), _time(one.last)) for one in spans]
    return Table("Data", f"The log {logs}.", ("split", "lists", "first", "last"), rows)


def _window_table(window: Sequence[mlmd.Artifact], config: PipelineConfig) -> Table:
    rows = []
    for examples in window:
        splits = trainer.splits(config, newest=examples is window[-1])
        known = examples.custom_properties
        names = [LISTS.format(split=one) for one in splits]
        lists = sum(known[name].int_value for name in names)
        day = day_of(examples).isoformat() if config.day else _NONE
        rows.append((day, ", ".join(splits), f"{lists:,}" if lists else _NONE, str(examples.id)))
    return Table(
        "Trained on",
        "Of the days before the newest everything; of that its train split alone.",
        ("day", "splits", "lists", "examples"),
        rows,
    )


def _time(seconds: int) -> str:
    moment = dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _bounds_table(summary: RunSummary) -> Table:
    rows = [
        (
            metric.name,
            f"{metric.candidate:.4f}",
            metric.needs,
            "missed" if metric.complaint else "reached",
        )
        for metric in summary.metrics
        if metric.needs
    ]
    return Table(
        "Bounds",
        "What Evaluator holds the model to on the test split. Calibration is mean prediction over "
        "mean label.",
        ("metric", "model", "needs", ""),
        rows,
    )


def _changes_table(compared: Comparison) -> Table:
    rows = [
        (
            change.title,
            change.against,
            str(change.lists),
            f"{change.change:+.4f}",
            f"{change.low:+.4f} to {change.high:+.4f}",
            change.margin,
            f"{change.verdict}{', refused' if change.complaint else ''}",
        )
        for change in compared.changes
    ]
    return Table(
        "Changes",
        "Gains on other orders of the same lists, with intervals over listeners; those of slices "
        "are wider, for they are many. Lost is what is shown to lose more than it may, undecided "
        "where noise hides whether it does.",
        ("figure", "against", "lists", "change", "interval", "may lose", "verdict"),
        rows,
    )


def _figures_table(compared: Comparison) -> Table:
    rows = [
        (
            one.name,
            str(one.lists),
            _cell(one.model),
            _number(one.last),
            _cell(one.change),
            _number(one.first_stage),
        )
        for one in compared.figures
        if one.part == ALL_LISTS
    ]
    return Table(
        "Figures",
        "On the test split, with intervals over listeners.",
        ("figure", "lists", "model", "last blessed", "change", "first stage"),
        rows,
    )


def _slice_tables(compared: Comparison) -> Iterator[Table]:
    parts = dict.fromkeys(one.part for one in compared.figures)
    figures = {(one.part, one.name): one for one in compared.figures}
    for name in _OF_SLICES:
        yield Table(
            f"{name} by slice",
            "",
            ("lists where", "lists", "model", "last blessed", "change"),
            [_slice_row(part, figures[part, name]) for part in parts],
        )


def _slice_row(part: str, one: Figure) -> tuple[str, ...]:
    return part, str(one.lists), _cell(one.model), _number(one.last), _cell(one.change)


def _cell(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return _number(found.value if found else None)
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def _lineage_table(summary: RunSummary) -> Table:
    rows = [
        (stage, kind, str(artifact.id), artifact.uri)
        for (stage, kind), artifact in summary.lineage.outputs.items()
    ]
    if (last := summary.lineage.baseline) is not None:
        rows.append(("held against", "Model", str(last.id), last.uri))
    return Table(
        "Lineage", "Ids of artifacts in ML Metadata.", ("stage", "artifact", "id", "where"), rows
    )


def _limits_table(config: PipelineConfig) -> Table:
    limits = json.loads(config.thresholds.model_dump_json())
    return Table("Thresholds", "Of all gates.", ("limit", "value"), list(_flat(limits)))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested mappings by their dotted names.

    >>> list(_flat({"a": {"b": 1}, "c": 2}))
    [('a.b', '1'), ('c', '2')]
    """
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
