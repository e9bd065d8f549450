"""Three days in a row: each run goes on from the one before, or need not."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from killing import EVERY_STAGE, killed_at_work
from log_statistics import flip_conversions, spoilt_throughout
from pipeline_run import (
    LENIENT,
    QUICK,
    WORLD,
    piano,
    run_directly,
    run_pipeline,
    written,
)
from trainer_alone import Training, assert_same_models

from piano_tf.data.days import days_in
from piano_tf.warm_start import Earlier
from tfx_pipeline.configs import PipelineConfig, environment
from tfx_pipeline.lineage import read_lineage
from tfx_pipeline.pushing import newest_version, same_files

LISTS = 300  # a day


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("days")


@pytest.fixture(scope="module")
def every_day(home: Path) -> dict[dt.date, Path]:
    """The log of each of three days, not yet where the pipeline looks."""
    world = written(home / "world.json", {**WORLD, "lists": 3 * LISTS, "days": 3})
    for command in (
        ("simulated", "--config", world, "--output", home / "log"),
        ("days", home / "log", "--output", home / "later"),
    ):
        done = piano("logs", *command)
        assert done.returncode == 0, done.stderr
    found = {day: home / "later" / day.isoformat() for day in days_in(home / "later")}
    assert len(found) == 3
    return found


class Daily:
    """What a team's schedule does: puts a day's log into place, and runs the pipeline.

    Args:
      home: Folder of it all.
    """

    def __init__(self, home: Path) -> None:
        self._folders = {"logs": home / "days", "home": home / "run"}
        training = {**QUICK["training"], "batch_size": 16, "checkpoint_steps": 1}
        self._files = {
            "config": written(home / "config.json", {**QUICK, "training": training}),
            "thresholds": home / "thresholds.json",
        }
        self.limit()
        self.variables = environment(**self._folders, **self._files)
        self.config = PipelineConfig.from_environment(self.variables)

    def limit(self, **thresholds: Any) -> None:
        """What the next runs are held to, beside what holds for all of them."""
        # The world is new: histories are much longer on its second day than on its first.
        grown = {"drift": {"history_length": 10.0}, "skew": {"history_length": 10.0}}
        always = {**LENIENT, "largest_loss": 1.0, "data": grown}
        written(self._files["thresholds"], {**always, **thresholds})

    def put(self, log: Path, day: dt.date) -> None:
        place = self._folders["logs"] / day.isoformat()
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(log, place)

    def run(self, window: int | None = None) -> subprocess.CompletedProcess[str]:
        """As `tfx run create` does, without the seconds that it takes to look around."""
        return run_directly(environment(**self._folders, **self._files, window=window))

    def command(self, *options: str) -> subprocess.CompletedProcess[str]:
        return run_pipeline(*self._folders.values(), *options, **self._files)

    @property
    def served(self) -> Path | None:
        """What a server takes."""
        return newest_version(self.config.pushed)


def vocabulary(model: Path, name: str = "query") -> set[bytes]:
    return {*Earlier.load(model).vocabularies[name]}


def started_from(printed: str) -> Path:
    """The model that a run says it started from."""
    return Path(re.search(r"a warm start from (\S+) \(new ids", printed)[1])


def card_of(printed: str) -> str:
    """The model card that a run names."""
    return Path(re.search(r"^model card: (\S+)$", printed, re.MULTILINE)[1]).read_text()


def test_each_day_starts_from_the_day_before_and_what_is_served_follows(
    every_day: dict[dt.date, Path], home: Path
) -> None:
    daily, (first, second, third) = Daily(home), every_day

    # The first day, like any other.
    daily.put(every_day[first], first)
    done = daily.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from scratch: no model of an earlier day is blessed" in done.stdout
    assert "pushed: " in done.stdout
    monday = daily.served
    assert "training on 1 day" in done.stdout

    # A poisoned day stops before training, and is no part of any later day's window. What is wrong
    # with it shows beside the day before alone.
    bad = spoilt_throughout(every_day[second], home / "bad", flip_conversions)
    daily.put(bad, second)
    done = daily.run()
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    drift = "column 'conversion' in the last accepted run and this: got "
    assert sentence.startswith(f"error: DataGate: a rule is broken, {drift}")
    assert re.search(r"^ +conversion +the last accepted run and this +odds ", done.stdout, re.M)
    assert daily.served == monday

    # The day once more, mended, and killed while it trains: it comes to what it would have.
    daily.put(every_day[second], second)
    assert killed_at_work(daily.variables, EVERY_STAGE - {"Trainer"}) == "Trainer"
    assert daily.served == monday
    done = daily.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert same_files(started_from(done.stdout), monday)
    assert "going on after step " in done.stdout
    straight = Training(
        PipelineConfig.from_environment(daily.variables),
        home / "checkpoints",
        home / "straight",
        earlier=started_from(done.stdout),
    )
    assert "going on" not in straight.finish()
    assert_same_models(daily.served, straight.model)
    assert "training on 2 days" in done.stdout
    assert "against the last blessed model" in done.stdout
    tuesday = daily.served
    assert tuesday != monday
    assert vocabulary(tuesday) > vocabulary(monday), "words of both days"

    # The next, of which a gate or the other wants more than its model can.
    daily.put(every_day[third], third)
    for limits, reason in (
        ({"serving": {"latency_ms": 1e-6}}, r"\nblessed\nnot fit to be served: normal: p50 is "),
        ({"undecided": "refuse", "largest_loss": 0.0}, r"\nnot blessed: .* the last blessed model"),
    ):
        daily.limit(**limits)
        done = daily.run(window=2)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(reason, done.stdout), done.stdout
        assert "nothing pushed: what is served stays as it is" in done.stdout
        assert daily.served == tuesday

    # What they want is mended: the same model goes on in turn, from two days of three.
    trained = read_lineage(daily.config).outputs["Trainer", "Model"].uri
    daily.limit()
    done = daily.run(window=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "against the last blessed model" in done.stdout
    wednesday = daily.served
    assert wednesday not in {monday, tuesday}
    lineage = read_lineage(daily.config)
    assert lineage.outputs["Trainer", "Model"].uri == trained
    assert "Trainer" not in lineage.worked
    assert vocabulary(wednesday) & (vocabulary(tuesday) - vocabulary(monday))
    assert vocabulary(monday) - vocabulary(wednesday), "words of the first day alone"
    card = card_of(done.stdout)
    for day, splits in ((second, "train, validation, test"), (third, "train")):
        assert f"<td>{day}</td><td>{splits}</td>" in card
    assert f"<td>{first}</td>" not in card
    assert f"<li>Training: a warm start from model {lineage.baseline.id}, " in card
    assert same_files(Path(lineage.baseline.uri) / "Format-Serving", tuesday)

    # On demand: a window of one day, and no warm start.
    done = daily.command("--window", "1", "--from-scratch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from scratch: it was asked for" in done.stdout
    assert "<li>Training: from scratch.</li>" in card_of(done.stdout)
    assert "training on 1 day" in done.stdout
    assert "against the last blessed model" in done.stdout
    again = daily.served
    assert not vocabulary(again) >= vocabulary(tuesday), "words of one day alone"

    model = read_lineage(daily.config).outputs["Trainer", "Model"]
    assert same_files(Path(model.uri) / "Format-Serving", again)
    assert len([*daily.config.pushed.iterdir()]) == 4
    for version in (monday, tuesday, wednesday, again):
        assert "serving_default" in tf.saved_model.load(str(version)).signatures
