"""The model card: everything of a run on one page, for blessed and refused models alike."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from rich.console import Console

from piano_tf.evaluation.lists import read_lists
from piano_tf.evaluation.predictions import Predictions, initial_order
from tfx_pipeline.card import Span, html, write_card
from tfx_pipeline.configs import PipelineConfig, Thresholds
from tfx_pipeline.gates.measures import parts_of
from tfx_pipeline.gates.model import compare
from tfx_pipeline.gates.serving import Verdict
from tfx_pipeline.lineage import Lineage
from tfx_pipeline.run_folder import CARD_FILE, mark_withdrawn
from tfx_pipeline.summary import Metric, RunSummary


@pytest.fixture
def config(log_dir: Path, tmp_path: Path) -> PipelineConfig:
    return PipelineConfig(logs=log_dir, home=tmp_path / "home")


def examples(number: int, lists: Mapping[str, int], day: dt.date | None = None) -> mlmd.Artifact:
    """As ExampleGen marks them."""
    found = mlmd.Artifact(id=number, type="Examples", uri=f"/artifacts/{number}")
    for split, count in lists.items():
        found.custom_properties[f"lists_{split}"].int_value = count
    if day is not None:
        found.custom_properties["span"].int_value = (day - dt.date(1970, 1, 1)).days
    return found


@pytest.fixture
def blessed(config: PipelineConfig) -> RunSummary:
    """Of a model that does as the last one did."""
    lists = read_lists(config.logs, "test")
    score = initial_order(lists)
    same = Predictions(
        score,
        lists.mask * 0.4,
        lists.mask * 0.2,
        np.full(len(lists), 0.9),
        np.full(len(lists), 0.5),
    )
    parts = parts_of(lists, config.logs, "test")
    lenient = Thresholds(undecided="bless")
    kinds = {
        ("ExampleGen", "Examples"): 3,
        ("Trainer", "Model"): 8,
        ("ModelGate", "ModelBlessing"): 9,
    }
    return RunSummary(
        metrics=(Metric("click AUC", 0.71, lower_bound=0.55),),
        compared=compare(lists, same, same, parts, lenient),
        blessed=True,
        served=Verdict(
            reasons=(), requests=5, p50_ms={"normal": 12.5, "longest list": 40.0}, latency_ms=250
        ),
        pushed=config.pushed / "1700000000",
        started_from=None,
        lineage=Lineage(
            run="2024-01-05T06:07:08.5",
            outputs={
                key: mlmd.Artifact(id=number, type=key[1], uri=f"/artifacts/{number}")
                for key, number in kinds.items()
            },
            worked=frozenset({"Trainer", "Pusher"}),
            window=(examples(3, {"train": 1200, "validation": 100, "test": 100}),),
            baseline=mlmd.Artifact(id=4, type="Model", uri="/artifacts/4"),
        ),
    )


def test_the_card_of_a_blessed_model(config: PipelineConfig, blessed: RunSummary) -> None:
    page = write_card(config, blessed)
    assert page == config.runs / "2024-01-05T06-07-08.5" / CARD_FILE
    text = page.read_text()
    assert "<h1>Model 8 on tiny</h1>" in text
    for sentence in (
        "Model gate: blessed.",
        "Serving gate: 5 golden requests answered over gRPC, p50 normal 12.5 ms, longest list "
        "40.0 ms (each at most 250 ms).",
        "Pushed as version 1700000000.",
    ):
        assert f"<li>{sentence}</li>" in text
    assert '<li class="complaint">' not in text
    for artifact in (3, 4, 8, 9):
        assert f"<td>{artifact}</td><td>/artifacts/{artifact}</td>" in text
    for part in {figure.part for figure in blessed.compared.figures}:
        assert f"<td>{part}</td>" in text
    assert "<td>serving.latency_ms</td><td>250.0</td>" in text
    assert "&#34;learning_rate&#34;" in text
    assert "<td>-</td><td>train</td><td>1,200</td><td>3</td>" in text
    assert "<li>Training: from scratch.</li>" in text
    # Needs nothing else.
    assert "src=" not in text
    assert "http" not in text


def test_the_card_of_a_refused_model_says_why(config: PipelineConfig, blessed: RunSummary) -> None:
    refused = dataclasses.replace(
        blessed,
        metrics=(Metric("click AUC", 0.51, lower_bound=0.55),),
        blessed=False,
        served=Verdict(reasons=("<normal>: click is not finite",), latency_ms=250),
        pushed=None,
    )
    text = html(config, refused)
    assert "<li>Model gate: not blessed.</li>" in text
    assert "click AUC 0.5100 is below the threshold 0.5500</li>" in text
    assert "<li>Serving gate: not fit to be served.</li>" in text
    assert "&lt;normal&gt;: click is not finite</li>" in text
    assert "<li>Not pushed: what is served stays as it is.</li>" in text
    served_already = dataclasses.replace(blessed, pushed=None)
    assert "<li>Not pushed: an earlier run did.</li>" in html(config, served_already)


def test_a_withdrawn_model_is_told_from_one_that_was_never_blessed(
    config: PipelineConfig, blessed: RunSummary
) -> None:
    withdrawn = dataclasses.replace(blessed, blessed=False, withdrawn=True, pushed=None)
    text = html(config, withdrawn)
    assert "<li>Model gate: blessed, and withdrawn since.</li>" in text
    assert "<li>Not pushed: what is served stays as it is.</li>" in text
    console = Console(file=io.StringIO(), width=200)
    withdrawn.print(console)
    printed = console.file.getvalue()
    assert "withdrawn, though it was blessed\n" in printed
    assert "not blessed" not in printed


@pytest.mark.parametrize(
    ("changes", "verdict", "version", "reasons"),
    [
        ({}, "pushed", "1700000000", ()),
        ({"pushed": None}, "pushed before", None, ()),
        (
            {"pushed": None, "served": Verdict(reasons=("too slow",), latency_ms=250)},
            "refused",
            None,
            ("too slow",),
        ),
        (
            {
                "pushed": None,
                "blessed": False,
                "metrics": (Metric("click AUC", 0.51, lower_bound=0.55),),
            },
            "refused",
            None,
            ("click AUC 0.5100 is below the threshold 0.5500",),
        ),
        ({"pushed": None, "blessed": False, "withdrawn": True}, "withdrawn", None, ()),
    ],
)
def test_a_schedule_can_tell_what_came_of_a_run(
    config: PipelineConfig, blessed: RunSummary, changes: dict, verdict: str, version, reasons
) -> None:
    for name in ("1500000000", "1600000000"):
        (config.pushed / name).mkdir(parents=True)
        (config.pushed / name / "saved_model.pb").touch()
    summary = dataclasses.replace(blessed, **changes)
    page = write_card(config, summary)
    file = summary.outcome(config, page).write(page.parent)
    assert file == config.runs / "2024-01-05T06-07-08.5" / "outcome.json"
    assert json.loads(file.read_text()) == {
        "run": "2024-01-05T06:07:08.5",
        "day": None,
        "verdict": verdict,
        "version": version,
        "reasons": list(reasons),
        "newest": "1600000000",
        "model": 8,
        "card": str(page),
        "withdrawn": False,
    }


def test_a_summary_is_marked_when_the_version_that_its_run_pushed_is_withdrawn(
    config: PipelineConfig, blessed: RunSummary
) -> None:
    """Where it lies, which after a move is not where the card in it says."""
    page = write_card(config, blessed)
    blessed.outcome(config, page).write(page.parent)
    folder = page.parent.rename(config.runs / "moved")
    file = folder / "outcome.json"
    before = json.loads(file.read_text())
    mark_withdrawn(folder, "1600000000")
    assert json.loads(file.read_text()) == before
    mark_withdrawn(folder, "1700000000")
    assert json.loads(file.read_text()) == {**before, "withdrawn": True}


def test_a_card_is_marked_when_its_model_is_withdrawn(
    config: PipelineConfig, blessed: RunSummary
) -> None:
    """It says what a card says that is written after it, and nothing else has changed."""
    page = write_card(config, blessed)
    before = page.read_text().splitlines()
    for _ in range(2):
        mark_withdrawn(page.parent, "1700000000")
        after = page.read_text().splitlines()
        changed = {one.strip(): other.strip() for one, other in zip(before, after, strict=True)}
        assert {one: other for one, other in changed.items() if one != other} == {
            "<li>Model gate: blessed.</li>": "<li>Model gate: blessed, and withdrawn since.</li>",
            "<li>Pushed as version 1700000000.</li>": (
                "<li>Pushed as version 1700000000, and taken back since.</li>"
            ),
        }
    assert [one.name for one in page.parent.iterdir()] == [CARD_FILE]


def test_the_card_of_a_day_tells_its_window_and_where_it_started(
    config: PipelineConfig, blessed: RunSummary
) -> None:
    """Of the days before it all lists were trained on."""
    monday, tuesday = dt.date(2026, 7, 1), dt.date(2026, 7, 2)
    lists = {"train": 1200, "validation": 100, "test": 50}
    window = (examples(2, lists, monday), examples(3, lists, tuesday))
    shutil.copytree(config.logs, config.home / "days" / tuesday.isoformat())
    daily = config.model_copy(update={"logs": config.home / "days", "day": tuesday})
    started = dataclasses.replace(
        blessed,
        started_from="/artifacts/4/Format-Serving",
        lineage=dataclasses.replace(blessed.lineage, window=window),
    )
    text = html(daily, started)
    days = "<td>2026-07-01</td><td>train, validation, test</td><td>1,350</td><td>2</td>"
    assert days in text
    assert "<td>2026-07-02</td><td>train</td><td>1,200</td><td>3</td>" in text
    sentence = "Training: a warm start from model 4, /artifacts/4/Format-Serving."
    assert f"<li>{sentence}</li>" in text
    elsewhere = dataclasses.replace(started, started_from="/elsewhere")
    assert "<li>Training: a warm start from /elsewhere.</li>" in html(daily, elsewhere)


def test_a_span_is_that_of_its_lists(tiny, tmp_path: Path) -> None:
    log_dir = tiny.write(tmp_path / "log", [tiny.row(number) for number in range(40)])
    spans = [Span.read(log_dir, split) for split in ("train", "validation", "test")]
    assert spans[0].first == 0
    assert spans[-1].last == 39
    assert sum(span.lists for span in spans) == 40
    assert all(one.last < other.first for one, other in itertools.pairwise(spans))
