"""`piano evaluate` and `piano compare`, as a person uses them."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from stub_runs import MODELS, inline, stub_train

from piano_tf import cli, models
from piano_tf.config import Config, ModelConfig, ScoreConfig
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.errors import LogError, PianoError
from piano_tf.evaluation import compare
from piano_tf.evaluation.lists import read_lists
from piano_tf.evaluation.predictions import predict
from piano_tf.evaluation.probability import probability_metrics
from piano_tf.evaluation.ranking import list_metrics
from piano_tf.evaluation.served import evaluate_exported, predict_exported
from piano_tf.evaluation.summary import Resampling
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.features import OUTPUTS
from piano_tf.models import Reranker

SCORE = ScoreConfig(click=1.0, conversion=0.5)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["piano", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None), ended.value.code


@pytest.fixture(scope="module")
def model(encoder: Encoder, log_dir: Path) -> Reranker:
    """Untrained, and not the initial order."""
    config = ModelConfig(name="dnn", width=4, ids=True, pretraining=None)
    built = models.build(encoder.inputs, config)
    built(next(iter(dataset(log_dir, "train", encoder)))[0])
    assert isinstance(built, Reranker)
    return built


@pytest.fixture(scope="module")
def exported(model: Reranker, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = ServingModule(model, encoder, encoder.features, SCORE)
    card = ModelCard(inputs=encoder.inputs, config=Config(model=model.config), score=SCORE)
    return export_model(module, card, tmp_path_factory.mktemp("exported") / "17")


# --- evaluate ---


def test_a_server_would_say_what_the_model_says(
    exported: Path, model: Reranker, encoder: Encoder, log_dir: Path
) -> None:
    served = predict_exported(exported, log_dir, "train")
    said = predict(model, SCORE, dataset(log_dir, "train", encoder, batch_size=8))
    for name, values in vars(said).items():
        np.testing.assert_allclose(getattr(served, name), values, atol=1e-5, err_msg=name)


def test_evaluate_prints_every_metric_and_writes_the_report(
    exported: Path,
    log_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "report"
    run(monkeypatch, "evaluate", exported, log_dir, "--split", "validation", "--output", output)
    printed = capsys.readouterr().out
    lists = read_lists(log_dir, "validation")
    said = predict_exported(exported, log_dir, "validation")
    expected = {name: np.nanmean(v) for name, v in list_metrics(lists, said.score).items()}
    expected |= probability_metrics(lists, said)
    for name, metric in {
        "click NDCG@10": "click_ndcg_10",
        "conversion MRR": "conversion_mrr",
    }.items():
        assert re.search(rf"^ +{name} +{expected[metric]:.4f} \[", printed, re.MULTILINE), name
    kinds = "auc", "group_auc", "log_loss", "ece", "ece_by_chance"
    for name in OUTPUTS:
        values = [f"{expected[k]:.4f}" for kind in kinds if (k := f"{name}_{kind}") in expected]
        line = rf"^ +{name.replace('_', ' ')} +{' +(?:- +)?'.join(values)}"
        assert re.search(line, printed, re.MULTILINE), name
    assert "10 validation lists" in printed and "initial order" in printed
    assert str(output / "report.html") in printed
    rows = pq.read_table(output / "results.parquet").to_pylist()
    of_model = {
        row["metric"]: row["value"]
        for row in rows
        if row["label"] == "dnn" and row["slice"] == "all"
    }
    assert of_model == pytest.approx(expected)
    assert {row["split"] for row in rows} == {"validation"}
    assert "Off-policy" not in printed
    reason = "There is no off-policy estimate: none was asked for."
    assert reason in (output / "results.md").read_text() and reason not in printed


@pytest.mark.parametrize("name", ["report.html", "results.md"])
def test_what_is_there_is_not_overwritten_unless_asked(
    exported: Path, log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_text("somebody's own")
    arguments = ["evaluate", exported, log_dir, "--output", tmp_path]
    monkeypatch.setattr(sys, "argv", ["piano", *map(str, arguments)])
    with pytest.raises(SystemExit, match=f"has a {name} already; choose another, or --overwrite"):
        cli.main()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["somebody's own"]
    run(monkeypatch, *arguments, "--overwrite")
    assert (tmp_path / name).read_text() != "somebody's own"


def test_an_off_policy_estimate_is_made_where_it_is_asked_for(
    exported: Path, tiny, tmp_path: Path, monkeypatch, capsys
) -> None:
    # Lists of two items each, where pairs of query and item move.
    log = tiny.write(tmp_path / "log", [tiny.row(n, candidates=2) for n in range(400)])
    output = tmp_path / "report"
    run(monkeypatch, "evaluate", exported, log, "--off-policy", "--output", output)
    for text in (capsys.readouterr().out, (output / "results.md").read_text()):
        assert "Off-policy: the share of what listeners wanted" in text
        assert "There is no off-policy estimate" not in text


def test_an_off_policy_estimate_that_cannot_be_made_says_why(
    exported: Path, log_dir: Path, monkeypatch, capsys
) -> None:
    run(monkeypatch, "evaluate", exported, log_dir, "--off-policy")
    printed = capsys.readouterr().out
    assert "There is no off-policy estimate: rank " in printed
    assert "Off-policy" not in printed


def test_a_folder_of_versions_is_not_a_version(exported: Path, log_dir: Path) -> None:
    expected = r"expected the folder of one exported version"
    with pytest.raises(PianoError, match=rf"{expected}, such as .*/17$"):
        predict_exported(exported.parent, log_dir, "test")
    with pytest.raises(PianoError, match=rf"has no assets\.extra/reranker\.json; {expected}$"):
        predict_exported(log_dir, log_dir, "test")


def test_a_folder_with_a_card_alone_is_not_a_model(
    exported: Path, log_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported / "assets.extra", tmp_path / "17" / "assets.extra")
    with pytest.raises(PianoError, match="17: cannot be loaded as a model"):
        predict_exported(tmp_path / "17", log_dir, "test")


def test_a_log_with_other_columns_is_refused_by_name(
    exported: Path, log_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(log_dir, tmp_path / "log")
    spec = json.loads((tmp_path / "log" / "features.json").read_text())
    spec["user"] = {"country": "string"}
    (tmp_path / "log" / "features.json").write_text(json.dumps(spec))
    with pytest.raises(LogError, match="column 'user_plays': got no such column, expected float"):
        evaluate_exported(exported, tmp_path / "log")
    spec["user"] = {"country": "float", "plays": "float"}
    (tmp_path / "log" / "features.json").write_text(json.dumps(spec))
    with pytest.raises(LogError, match="column 'user_country': got float, expected string"):
        evaluate_exported(exported, tmp_path / "log")


def test_the_model_is_the_reference_and_the_orders_are_beside_it(
    exported: Path, log_dir: Path
) -> None:
    found = evaluate_exported(exported, log_dir, resampling=Resampling(resamples=50))
    assert [row.name for row in found.rows] == [
        "dnn",
        "initial order",
        "random order",
        "ideal order",
    ]
    assert found.reference == "dnn" and found.rivals() == [found.row("initial order")]
    gain = found.row("initial order").leads["click_ndcg_10"].difference
    values = [found.row(name).values["click_ndcg_10"].value for name in ("dnn", "initial order")]
    assert gain == pytest.approx(values[0] - values[1]) and gain != 0


# --- compare ---


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` that trains nothing."""
    quick = functools.partial(compare.compare, train=stub_train, pool=inline)
    monkeypatch.setattr(compare, "compare", quick)


@pytest.mark.usefixtures("in_process")
def test_compare_reads_its_configuration_and_says_where_the_report_is(
    log_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(log_dir, tmp_path / "logs" / "tiny")
    file = tmp_path / "comparison.json"
    comparison = {
        "logs": ["logs/tiny"],
        "output": "results/tiny",
        "seeds": [0],
        "models": MODELS,
        "resamples": 50,
    }
    file.write_text(json.dumps(comparison))
    run(monkeypatch, "compare", file)
    report = tmp_path / "results" / "tiny" / "report.html"
    assert f"report: {report}" in capsys.readouterr().out
    assert report.is_file()
    comparison["models"]["Rival"] = {"model": {"name": "first_stage", "width": 16}}
    file.write_text(json.dumps(comparison))
    run(monkeypatch, "compare", file)
    assert "Rival, seed 0: settings or log are not those of before" in capsys.readouterr().out


def test_a_wrong_key_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "comparison.json"
    models = {"PIANO": {}, "no gate": {"model": {"piano": {"gat": False}}}}
    file.write_text(json.dumps({"logs": ["logs"], "output": "out", "models": models}))
    monkeypatch.setattr(sys, "argv", ["piano", "compare", str(file)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    message = str(ended.value.code)
    assert message.startswith(f"error: {file}: ") and "\n" not in message
    assert "models.no gate: model.piano.gat: got False" in message
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]
