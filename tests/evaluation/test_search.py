"""The search: same trials for all, taken up again, and blind to the test split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stub_runs import Trainer, compared, config_of

from piano_tf.config import Config
from piano_tf.errors import ConfigError, PianoError
from piano_tf.evaluation.config import ComparisonConfig, SearchConfig
from piano_tf.evaluation.runs import log_digest
from piano_tf.evaluation.search import Search, SearchResult, found, run_search, validation_ndcg

SPACE = {
    "model.width": [4, 8, 16],
    "model.blocks": {"min": 1, "max": 3},
    "training.learning_rate": {"min": 1e-4, "max": 1e-1, "log": True},
    "model.match": [True, False],
}


def search_of(folder: Path, label: str = "A", **settings) -> Search:
    models = {"A": {}, "B": {"model": {"heads": 2}}}
    comparison = ComparisonConfig(
        logs=["log"],
        output=folder,
        base={"training": {"epochs": 9}},
        models=models,
        search={"space": SPACE, "trials": 6, **settings},
    )
    return Search(label, Path("log"), "digest", comparison, folder / "search" / f"{label}.json")


class Objective:
    """Best at a learning rate of 0.01; interrupted before one trial more than `patience`."""

    def __init__(self, patience: int | None = None) -> None:
        self.tried: list[Config] = []
        self.patience = patience

    def __call__(self, log_dir: Path, digest: str, config: Config) -> float:
        assert (log_dir, digest) == (Path("log"), "digest")
        if len(self.tried) == self.patience:
            raise KeyboardInterrupt
        self.tried.append(config)
        return 1 - abs(np.log10(config.training.learning_rate) + 2) / 10


def searched(search: Search, objective: Callable | None = None) -> SearchResult:
    run_search(search, objective=objective or Objective())
    result = found(search)
    assert result is not None
    return result


def with_heads(config: Config, heads: int) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"heads": heads})})


def test_the_best_of_the_trials_is_found(tmp_path: Path) -> None:
    objective = Objective()
    result = searched(search_of(tmp_path), objective)
    assert result.trials == len(objective.tried) == 6
    best = max(objective.tried, key=lambda config: Objective()(Path("log"), "digest", config))
    assert result.values == {
        "model.width": best.model.width,
        "model.blocks": best.model.blocks,
        "training.learning_rate": best.training.learning_rate,
        "model.match": best.model.match,
    }
    assert type(result.values["model.match"]) is bool
    for config in objective.tried:
        assert config.model.width in (4, 8, 16) and config.model.blocks in (1, 2, 3)
        assert 1e-4 <= config.training.learning_rate <= 1e-1
        assert config.training.epochs == 9 and config.training.seed == 0
    assert len({config.training.learning_rate for config in objective.tried}) == 6


@pytest.mark.parametrize("method", ["random", "hyperband"])
def test_every_label_gets_the_same_trials(tmp_path: Path, method: str) -> None:
    tried = {}
    for label in ("A", "B"):
        objective = Objective()
        searched(search_of(tmp_path, label, method=method), objective)
        tried[label] = objective.tried
    assert [with_heads(config, 2) for config in tried["A"]] == tried["B"]
    other = Objective()
    searched(search_of(tmp_path / "other", method=method, seed=5), other)
    assert {c.training.learning_rate for c in other.tried}.isdisjoint(
        c.training.learning_rate for c in tried["A"]
    )


def test_hyperband_runs_the_best_longer(tmp_path: Path) -> None:
    objective = Objective()
    result = searched(search_of(tmp_path, method="hyperband"), objective)
    by_epochs: dict[int, set[float]] = {}
    for config in objective.tried:
        by_epochs.setdefault(config.training.epochs, set()).add(config.training.learning_rate)
    assert set(by_epochs) == {1, 3, 9}
    best = min(by_epochs[1], key=lambda rate: abs(np.log10(rate) + 2))
    assert best in by_epochs[3] and best in by_epochs[9]
    # What is found is the trial that was scored, epochs and all.
    epochs, rate = result.values["training.epochs"], result.values["training.learning_rate"]
    assert rate in by_epochs[epochs]


@pytest.mark.parametrize("method", ["random", "hyperband"])
def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path, method: str) -> None:
    whole = Objective()
    expected = searched(search_of(tmp_path / "whole", method=method), whole)
    search, first, second = search_of(tmp_path, method=method), Objective(3), Objective()
    with pytest.raises(KeyboardInterrupt):
        run_search(search, objective=first)
    assert found(search) is None
    result = searched(search, second)
    assert result == expected
    assert [*first.tried, *second.tried] == whole.tried


def test_a_result_of_other_settings_is_not_found(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    searched(search)
    assert found(search_of(tmp_path, trials=7)) is None
    objective = Objective()
    assert searched(search_of(tmp_path, trials=7), objective).trials == 7
    assert len(objective.tried) == 7  # none taken over from the six


def test_a_model_that_diverges_is_the_worst(tmp_path: Path) -> None:
    def diverging(log_dir: Path, digest: str, config: Config) -> float:
        if config.training.learning_rate > 1e-3:
            raise PianoError("list 0, output 'click': got nan")
        return 0.1

    result = searched(search_of(tmp_path), diverging)
    assert result.values["training.learning_rate"] <= 1e-3 and result.ndcg_10 == 0.1


def test_any_other_error_ends_the_search(tmp_path: Path) -> None:
    def wrong(log_dir: Path, digest: str, config: Config) -> float:
        raise ConfigError("model.heads: got 3")

    with pytest.raises(ConfigError, match=r"model\.heads: got 3"):
        run_search(search_of(tmp_path), objective=wrong)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"space": {"model.widht": [4]}}, "models.A: model.widht: got 4; expected one of name"),
        ({"space": {"model.width": [0, 4]}}, "models.A: model.width: got 0; input should be"),
        ({"space": {"model.width": {"min": 0, "max": 4}}}, "models.A: model.width: got 0"),
        ({"space": {"model.width": {"min": 4, "max": 4}}}, "min 4, max 4: expected min < max"),
        ({"space": {"loss.conversion": {"min": 0, "max": 1, "log": True}}}, "both > 0 in log"),
        ({"space": {"model.width": [4, 8.5]}}, "expected values of one type"),
        ({"space": {"model.width": []}}, "expected values of one type"),
        ({"space": {"training.seed": [1, 2]}}, "training.seed: expected another key"),
        ({"method": "hyperband", "space": {"training.epochs": [1, 2]}}, "expected another key"),
        ({"space": {}}, "at least 1 item"),
    ],
)
def test_a_wrong_search_is_one_sentence(changed: dict, sentence: str) -> None:
    search = {"space": {"model.width": [4, 8]}, **changed}
    config = {"logs": ["log"], "output": "out", "models": {"A": {}}, "search": search}
    with pytest.raises(ConfigError, match=sentence) as raised:
        ComparisonConfig.from_json(json.dumps(config))
    assert "\n" not in str(raised.value)


def test_a_search_reads_no_test_split(log_dir: Path, tmp_path: Path) -> None:
    """Really trained, on a log whose test split is not there."""
    blind = tmp_path / "log"
    shutil.copytree(log_dir, blind, ignore=shutil.ignore_patterns("test"))
    model = {"name": "first_stage", "ids": True, "pretraining": None}
    comparison = ComparisonConfig(
        logs=[blind],
        output=tmp_path / "out",
        base={"encoding": {"history_length": 4}, "model": model, "training": {"epochs": 1}},
        models={"A": {}},
        search=SearchConfig(trials=1, space={"training.learning_rate": (0.01, 0.02)}),
    )
    digest = log_digest(blind, ("train", "validation"))
    search = Search("A", blind, digest, comparison, tmp_path / "out" / "search" / "a.json")
    result = searched(search, validation_ndcg)
    assert result.values["training.learning_rate"] in (0.01, 0.02)
    assert 0 < result.ndcg_10 <= 1


def test_runs_are_trained_with_what_was_found(log_dir: Path, tmp_path: Path) -> None:
    searches: list[tuple[str, Path]] = []

    def run(search: Search) -> None:
        searches.append((search.label, search.log_dir))

        def objective(log: Path, digest: str, config: Config) -> float:
            return config.model.width / 100

        run_search(search, objective=objective)

    space = {"model.width": [8, 16], "loss.conversion": [0.5]}
    config = config_of(log_dir, tmp_path / "out", search={"trials": 2, "space": space})
    report = compared(config, run_search=run)
    searched_labels = [label for label in config.models if label not in config.ablations]
    assert searches == [(label, log_dir) for label in searched_labels]
    for label, width in (("ours", 16), ("rival", 16), ("no-part", 12)):
        for seed in (0, 1):
            record = json.loads((tmp_path / f"out/runs/{label}/{seed}/0/run.json").read_text())
            assert record["config"]["model"]["width"] == width
            assert record["config"]["loss"]["conversion"] == 0.5
    assert "Settings found on validation" in report.read_text()
    assert "Settings found on validation" in report.with_name("results.md").read_text()
    # The second time nothing is searched and nothing trained.
    trainer = Trainer()
    compared(config, trainer, run_search=run)
    assert len(searches) == len(searched_labels) and trainer.trained == []
