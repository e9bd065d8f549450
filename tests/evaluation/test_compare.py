"""The comparison: what is trained, kept and taken up again, and what comes out of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from stub_runs import MODELS, Trainer, compared, config_of, inline, said, stub_train

from piano_tf.config import Config
from piano_tf.errors import ConfigError, LogError, PianoError
from piano_tf.evaluation import runs
from piano_tf.evaluation.compare import compare
from piano_tf.evaluation.config import ComparisonConfig
from piano_tf.evaluation.lists import concatenate, read_lists
from piano_tf.evaluation.predictions import Predictions
from piano_tf.evaluation.probability import probability_metrics
from piano_tf.evaluation.ranking import list_metrics
from piano_tf.evaluation.runs import Run, finished, load_predictions, log_digest
from piano_tf.evaluation.workers import spawned
from piano_tf.features import SPLITS

TITLES = [f"{label}, seed {seed}" for label in MODELS for seed in (0, 1)]


def tables_of(output: Path) -> tuple[str, list, list]:
    """What two equal comparisons have in common."""
    return (
        (output / "results.md").read_text(),
        pq.read_table(output / "results.parquet").to_pylist(),
        pq.read_table(output / "summary.parquet").to_pylist(),
    )


def same(left: tuple[str, list, list], right: tuple[str, list, list]) -> bool:
    return repr(left) == repr(right)  # nan is not itself, but looks it


def values_of(output: Path, label: str, metric: str, split: str = "test") -> list[float]:
    """By seed, over all lists."""
    rows = pq.read_table(output / "results.parquet").to_pylist()
    wanted = {"label": label, "metric": metric, "split": split, "slice": "all"}
    return [row["value"] for row in rows if wanted.items() <= row.items()]


# --- what comes out ---


def test_results_are_the_metrics_of_what_was_predicted(log_dir: Path, tmp_path: Path) -> None:
    config = config_of(log_dir, tmp_path / "out")
    steps: list[tuple[int, int]] = []
    report = compared(config, progress=lambda done, total, what: steps.append((done, total)))
    assert report == tmp_path / "out" / "report.html"
    assert steps == [(done, 6 + 3 + 3) for done in range(13)]
    for split in runs.PREDICTED:
        lists = read_lists(log_dir, split)
        for label in ("ours", "no-part"):
            folders = [tmp_path / "out" / "runs" / label / str(seed) / "0" for seed in (0, 1)]
            found = [Predictions.load(folder / f"{split}.npz") for folder in folders]
            name = {"ours": "Ours", "no-part": "no part"}[label]
            for metric in ("click_ndcg_3", "conversion_mrr"):
                expected = [np.nanmean(list_metrics(lists, one.score)[metric]) for one in found]
                np.testing.assert_allclose(
                    values_of(tmp_path / "out", name, metric, split), expected
                )
            for metric in ("click_ece", "list_conversion_auc"):
                expected = [probability_metrics(lists, one)[metric] for one in found]
                np.testing.assert_allclose(
                    values_of(tmp_path / "out", name, metric, split), expected
                )


def test_the_reference_orders_are_beside_the_models(log_dir: Path, tmp_path: Path) -> None:
    compared(config_of(log_dir, tmp_path / "out"))
    lists = read_lists(log_dir, "test")
    position = -np.arange(lists.mask.shape[1])
    initial = list_metrics(lists, np.broadcast_to(position, lists.mask.shape))
    (found,) = values_of(tmp_path / "out", "initial order", "click_map_5")
    assert found == pytest.approx(np.nanmean(initial["click_map_5"]))
    assert len(values_of(tmp_path / "out", "random order", "click_mrr")) == 2
    for metric in ("click_ndcg_1", "conversion_map_10"):
        assert values_of(tmp_path / "out", "ideal order", metric) == [pytest.approx(1)]
    orders = {"initial order", "random order", "ideal order"}
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert orders == {row["label"] for row in rows} - set(MODELS)
    assert not [row for row in rows if row["label"] in orders and "auc" in row["metric"]]


def test_folds_are_pooled_list_by_list(log_dir: Path, tmp_path: Path, tiny) -> None:
    other = tiny.write(tmp_path / "other", [tiny.row(n, candidates=7) for n in range(100, 130)])
    config = config_of(log_dir, tmp_path / "out", logs=[log_dir, other])
    trainer = Trainer()
    compared(config, trainer)
    assert sorted(trainer.trained) == sorted(2 * TITLES)
    folders = [tmp_path / "out" / "runs" / "rival" / "1" / str(fold) for fold in (0, 1)]
    pooled = Predictions.concatenate([Predictions.load(f / "test.npz") for f in folders])
    lists = concatenate([read_lists(log, "test") for log in (log_dir, other)])
    expected = np.nanmean(list_metrics(lists, pooled.score)["click_ndcg_5"])
    assert values_of(tmp_path / "out", "Rival", "click_ndcg_5")[1] == pytest.approx(expected)
    apart = [
        np.nanmean(
            list_metrics(read_lists(log, "test"), Predictions.load(f / "test.npz").score)[
                "click_ndcg_5"
            ]
        )
        for log, f in zip((log_dir, other), folders, strict=True)
    ]
    assert abs(np.mean(apart) - expected) > 1e-4  # or the mean of folds would do


def test_summary_has_the_lead_of_the_reference(log_dir: Path, tmp_path: Path) -> None:
    compared(config_of(log_dir, tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / "summary.parquet").to_pylist()
    of_metric = {row["label"]: row for row in rows if row["metric"] == "click_ndcg_10"}
    ours = of_metric.pop("Ours")
    assert ours["lead"] is ours["p"] is ours["p_holm"] is None
    assert ours["low"] <= ours["value"] <= ours["high"]
    assert ours["value"] == pytest.approx(
        np.mean(values_of(tmp_path / "out", "Ours", "click_ndcg_10"))
    )
    for label, row in of_metric.items():
        assert row["lead"] == pytest.approx(ours["value"] - row["value"])
        assert row["lead_low"] <= row["lead"] <= row["lead_high"]
        tested = label not in ("random order", "ideal order")
        assert (row["p"] is not None) is (row["p_holm"] is not None) is tested
    # Rival and initial order are one family of two, the ablation is alone.
    assert of_metric["no part"]["p_holm"] == of_metric["no part"]["p"]
    pair = sorted((of_metric["Rival"], of_metric["initial order"]), key=lambda row: row["p"])
    assert pair[0]["p_holm"] == min(1, 2 * pair[0]["p"])
    assert pair[1]["p_holm"] == min(1, max(pair[1]["p"], 2 * pair[0]["p"]))


def test_a_user_s_lists_are_resampled_together(log_dir: Path, tmp_path: Path) -> None:
    """Three users in all: the interval is another one, the value is not."""
    found = {}
    for unit in ("list", "user"):
        compared(config_of(log_dir, tmp_path / unit, unit=unit))
        rows = pq.read_table(tmp_path / unit / "summary.parquet").to_pylist()
        found[unit] = next(row for row in rows if row["metric"] == "click_ndcg_10")
    assert found["list"]["value"] == pytest.approx(found["user"]["value"])
    assert found["list"]["low"] != found["user"]["low"]


def test_a_rival_that_keeps_the_initial_order_does_not_count_twice(
    log_dir: Path, tmp_path: Path
) -> None:
    """It gets the p of the initial order, and the others the p that they have without it."""

    def train(run: Run) -> None:
        stub_train(run)
        if run.label != "Keeper":
            return
        record, kept = runs.record_of(run.folder), {}
        assert record is not None
        for split in runs.PREDICTED:
            found = load_predictions(run, split)
            order = np.where(found.click > 0, -np.arange(found.click.shape[1]), 0)
            kept[split] = dataclasses.replace(found, score=order.astype(np.float32))
        runs.keep(run.folder, record, kept)

    def p_of(**models: dict) -> dict[tuple[str, str], float]:
        output = tmp_path / str(len(models))
        compared(config_of(log_dir, output, models={**MODELS, **models}), train)
        rows = pq.read_table(output / "summary.parquet").to_pylist()
        return {(row["label"], row["metric"]): row["p_holm"] for row in rows}

    with_it, without = p_of(Keeper={"model": {"name": "first_stage"}}), p_of()
    for label, metric in without:
        assert with_it[label, metric] == without[label, metric]
        assert with_it["Keeper", metric] == without["initial order", metric]


# --- what is kept ---


def test_two_comparisons_give_the_same_tables(log_dir: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        compared(config_of(log_dir, tmp_path / name))
    assert same(tables_of(tmp_path / "one"), tables_of(tmp_path / "two"))


def test_an_interrupted_comparison_goes_on_where_it_was(log_dir: Path, tmp_path: Path) -> None:
    config, first = config_of(log_dir, tmp_path / "out"), Trainer(patience=2)
    with pytest.raises(KeyboardInterrupt):
        compared(config, first)
    assert first.trained == TITLES[:2]
    kept = tmp_path / "out" / "runs" / "ours" / "0" / "0" / "test.npz"
    before = kept.stat()
    assert not (tmp_path / "out" / "results.md").exists()
    torn = kept.parents[1] / ".0.abc"  # of a process that was killed while it wrote
    torn.mkdir()

    second, words = Trainer(), []
    compared(config, second, say=words.append)
    assert second.trained == TITLES[2:]
    assert words == []
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert not torn.exists()
    compared(config_of(log_dir, tmp_path / "whole"))
    assert same(tables_of(tmp_path / "out"), tables_of(tmp_path / "whole"))


def test_what_has_changed_is_trained_again_and_nothing_else(log_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    compared(config_of(log_dir, output))
    before = values_of(output, "Rival", "click_mrr")
    wider = {**MODELS, "Rival": {"model": {"name": "first_stage", "width": 80}}}
    trainer, words = Trainer(), []
    compared(config_of(log_dir, output, models=wider, resamples=100), trainer, say=words.append)
    assert trainer.trained == ["Rival, seed 0", "Rival, seed 1"]
    assert [sentence.split(":")[0] for sentence in words] == trainer.trained
    assert values_of(output, "Rival", "click_mrr") != before


def test_a_report_of_other_runs_does_not_stay_while_new_ones_are_made(
    log_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    written = {"report.html", "results.md", "results.parquet", "summary.parquet"}
    compared(config_of(log_dir, output))
    assert written <= {file.name for file in output.iterdir()}
    wider = {**MODELS, "Rival": {"model": {"name": "first_stage", "width": 80}}}
    with pytest.raises(KeyboardInterrupt):
        compared(config_of(log_dir, output, models=wider), Trainer(patience=1))
    assert not written & {file.name for file in output.iterdir()}


def test_a_changed_log_trains_everything_again(log_dir: Path, tmp_path: Path, tiny) -> None:
    shutil.copytree(log_dir, tmp_path / "log")
    compared(config_of(tmp_path / "log", tmp_path / "out"))
    again = Trainer()
    shutil.move(tmp_path / "log", tmp_path / "moved")  # the same files elsewhere
    compared(config_of(tmp_path / "moved", tmp_path / "out"), again)
    assert again.trained == []
    shutil.rmtree(tmp_path / "moved")
    tiny.write(tmp_path / "moved", tiny.rows(41))
    compared(config_of(tmp_path / "moved", tmp_path / "out"), again)
    assert again.trained == TITLES


def test_a_run_that_fails_is_named_and_the_others_are_kept(log_dir: Path, tmp_path: Path) -> None:
    def train(run: Run) -> None:
        if run.title == "Rival, seed 1":
            raise PianoError("list 3: got nan")
        stub_train(run)

    config = config_of(log_dir, tmp_path / "out")
    with pytest.raises(PianoError, match=r"^Rival, seed 1: list 3: got nan$"):
        compared(config, train)
    trainer = Trainer()
    compared(config, trainer)
    assert trainer.trained == ["Rival, seed 1"]


def test_a_run_is_whole_or_not_there(log_dir: Path, tmp_path: Path, monkeypatch) -> None:
    config = config_of(log_dir, tmp_path / "out", seeds=[0])
    compared(config)
    folder = tmp_path / "out" / "runs" / "ours" / "0" / "0"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(self: Predictions, path: Path) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Predictions, "save", full)
    wider = {"Ours": {"model": {"name": "first_stage", "width": 80}}}
    changed = config_of(log_dir, tmp_path / "out", seeds=[0], models=wider, ablations=[])
    with pytest.raises(OSError, match="full"):
        compared(changed)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == ["0"]


# --- the configuration ---


def test_the_file_s_folder_is_where_relative_paths_start(tmp_path: Path) -> None:
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps({"logs": ["a", "/b"], "output": "out", "models": {"PIANO": {}}}))
    config = ComparisonConfig.load(file)
    assert config.logs == (tmp_path / "a", Path("/b"))
    assert config.output == tmp_path / "out"
    assert config.reference == "PIANO" and config.seeds == (0, 1, 2, 3, 4)


def test_what_a_label_changes_is_merged_into_the_base() -> None:
    config = ComparisonConfig(
        logs=["a"],
        output="out",
        base={"model": {"width": 16, "piano": {"gate": False}}, "training": {"epochs": 3}},
        models={
            "PIANO": {},
            "other": {"model": {"piano": {"token": False}, "ids": True, "pretraining": None}},
        },
    )
    base = Config(model={"width": 16, "piano": {"gate": False}}, training={"epochs": 3, "seed": 7})
    assert config.config_of("PIANO", seed=7) == base
    other = config.config_of("other", seed=7, found={"model.width": 4, "loss.conversion": 0.5})
    assert other.model.piano.gate is other.model.piano.token is False
    assert other.model.pretraining is None
    assert (other.model.width, other.loss.conversion, other.training.epochs) == (4, 0.5, 3)
    assert ComparisonConfig.from_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"models": {"A": {"model": {"gat": 1}}}},
            r"models.A: model.gat: got 1; expected one of name",
        ),
        ({"models": {"A": {"loss": 3}}}, r"models.A: loss: got 3; input should be an object"),
        ({"models": {"A": {"training": {"seed": 1}}}}, "models.A.training.seed: expected it"),
        (
            {"models": {"A b": {}, "A-B": {}}},
            "got labels 'A b' and 'A-B', expected ones that differ",
        ),
        ({"models": {"random order": {}}}, "got label 'random order', expected a name of its own"),
        ({"models": {"?": {}}}, "got label '\\?', expected a name of its own"),
        ({"models": {}}, "models: got {}; dictionary should have at least 1 item"),
        ({"reference": "B"}, "got label 'B', expected one of A"),
        ({"ablations": ["B"]}, "got label 'B', expected one of A"),
        ({"ablations": ["A"]}, "got the reference 'A', expected others"),
        ({"seeds": [1, 1]}, "seeds: got \\(1, 1\\), expected each once"),
        ({"seeds": [-1]}, "models.A: training.seed: got -1"),
        ({"sedes": [1]}, "sedes: got \\[1\\]; expected one of"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(changed: dict, sentence: str) -> None:
    good = {"logs": ["a"], "output": "out", "models": {"A": {}}}
    with pytest.raises(ConfigError, match=sentence) as raised:
        ComparisonConfig.from_json(json.dumps({**good, **changed}))
    assert "\n" not in str(raised.value)


def test_nothing_is_trained_for_a_model_or_log_that_is_not_there(
    log_dir: Path, tmp_path: Path
) -> None:
    trainer = Trainer()
    models = {"Ours": {}, "Theirs": {"model": {"name": "pianola"}}}
    with pytest.raises(ConfigError, match=r"models\.Theirs\.model\.name: got 'pianola', expected"):
        compared(config_of(log_dir, tmp_path / "out", models=models, ablations=[]), trainer)
    with pytest.raises(PianoError, match=r"nowhere: no such folder"):
        compared(config_of(tmp_path / "nowhere", tmp_path / "out"), trainer)
    (tmp_path / "half").mkdir()
    shutil.copy(log_dir / "features.json", tmp_path / "half")
    with pytest.raises(LogError, match=r"half/train: expected \*\.parquet files"):
        compared(config_of(tmp_path / "half", tmp_path / "out"), trainer)
    assert trainer.trained == [] and not (tmp_path / "out").exists()


# --- in processes, really trained ---


def test_a_run_keeps_the_digest_of_the_code_it_was_made_with(tmp_path: Path, monkeypatch) -> None:
    """What a worker gets is the digest of its parent, whatever was edited meanwhile."""
    run = Run("DNN", tmp_path, "log", Config(), tmp_path / "run")
    sent = pickle.dumps(run)
    monkeypatch.setattr(runs, "_code_digest", lambda *sources: "edited")
    assert pickle.loads(sent).digest == run.digest
    assert Run("DNN", tmp_path, "log", Config(), tmp_path / "run").digest != run.digest


def test_a_run_depends_on_nothing_that_its_process_did_before(
    log_dir: Path, tmp_path: Path
) -> None:
    digest = log_digest(log_dir, SPLITS)
    base = {"encoding": {"history_length": 4}, "training": {"epochs": 1, "batch_size": 8}}

    def run(name: str, folder: str) -> Run:
        model = {"name": name, "width": 4, "ids": True, "pretraining": None}
        config = Config.model_validate({**base, "model": model})
        return Run(name, log_dir, digest, config, tmp_path / folder)

    once, between, again = run("dnn", "a"), run("first_stage", "b"), run("dnn", "c")
    threads = os.environ.get("OMP_NUM_THREADS")
    with pytest.raises(KeyboardInterrupt), spawned(1) as pool:
        for one in (once, between, again):
            pool.submit(runs.train, one).result()
        process = pool.submit(os.getpid).result()
        scratch = Path(pool.submit(tempfile.gettempdir).result())
        assert scratch.is_dir() and list(scratch.iterdir())
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not scratch.exists()
    assert os.environ.get("OMP_NUM_THREADS") == threads
    record = finished(once)
    assert record is not None and record.config == once.config and record.epochs == 1
    for split in runs.PREDICTED:
        lists = read_lists(log_dir, split)
        first, second = (load_predictions(one, split) for one in (once, again))
        assert first.score.shape == lists.mask.shape
        assert np.isfinite(first.score).all() and np.ptp(first.click[lists.mask]) > 0
        for name, values in vars(first).items():
            np.testing.assert_array_equal(getattr(second, name), values, err_msg=name)
    assert not np.array_equal(first.click, load_predictions(between, "test").click)


def test_a_killed_process_is_said_so(log_dir: Path, tmp_path: Path) -> None:
    class Broken(contextlib.nullcontext):
        def submit(self, *arguments):
            from concurrent.futures import Future
            from concurrent.futures.process import BrokenProcessPool

            future: Future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    with pytest.raises(PianoError, match="a process was killed"):
        compare(config_of(log_dir, tmp_path / "out"), pool=lambda workers: Broken(Broken()))


def test_stubs_know_more_with_more_skill(log_dir: Path) -> None:
    """Of these tests' own predictions: they are no noise alone."""
    lists = read_lists(log_dir, "test")
    weak, strong = (
        np.nanmean(list_metrics(lists, said(lists, 0, skill).score)["click_ndcg_10"])
        for skill in (0.0, 0.5)
    )
    assert strong == pytest.approx(1) and weak < 0.95
    with inline(1) as pool:
        assert pool.submit(int, "3").result() == 3
