"""One real run of the pipeline, shared by the tests here."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_run import CONFIG, THRESHOLDS, WORLD, Run, piano, run_pipeline, written

from piano_tf.config import Config


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a small simulated world, built by the commands from its raw events."""
    folder = tmp_path_factory.mktemp("end_to_end")
    world, events, log = written(folder / "world.json", WORLD), folder / "events", folder / "logs"
    mapping = events / "mapping.json"
    for command in (
        ("simulated-events", "--config", world, "--output", events),
        ("events", "--input", events, "--mapping", mapping, "--output", log),
    ):
        done = piano("logs", *command)
        assert done.returncode == 0, done.stderr
    return log


@pytest.fixture(scope="session")
def first_run(logs: Path) -> Run:
    """The pipeline's first run on the log."""
    home = logs.parent / "home"
    config = written(logs.parent / "config.json", CONFIG)
    thresholds = written(logs.parent / "thresholds.json", THRESHOLDS)
    done = run_pipeline(logs, home, config=config, thresholds=thresholds)
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(logs, home, Config.model_validate(CONFIG), done.stdout)
