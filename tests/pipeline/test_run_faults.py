"""What goes wrong around a run: kills, a full disk, broken and poisoned logs.

Each ends in a whole run, over a home with a served model. What of a log is found, and how it is
told: `test_data_gate.py`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import die_at
import pyarrow as pa
import pytest
from die_at import COPYING
from killing import EVERY_STAGE, SHORT, checkpoints, finished, killed_at_work, said
from log_statistics import (
    Rows,
    cut_off,
    flip_labels,
    renamed,
    retyped,
    rewrite,
    shuffle_items,
    spoilt,
)
from ml_metadata.proto import metadata_store_pb2 as mlmd
from pipeline_run import LENIENT, QUICK, RUN, piano, run_directly, written
from small_disk import SmallDisk
from trainer_alone import Training, assert_same_models

from tfx_pipeline.configs import PipelineConfig, environment
from tfx_pipeline.home_lock import alone
from tfx_pipeline.lineage import open_store, read_lineage, stage_of
from tfx_pipeline.pushing import newest_version
from tfx_pipeline.summary import read_summary

# They only look for what a run takes from earlier ones, each time.
_RESOLVERS = {"last_accepted_data", "latest_blessed_model", "model_to_start_from", "window"}
_DIES = (sys.executable, die_at.__file__)
# What the next run is held to, and takes from earlier ones.
_KEPT = ("ExampleGen/examples", "DataGate/accepted", "Trainer/model")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Those of a quick run, on a log as small as the gates let pass."""
    folder = tmp_path_factory.mktemp("faults")
    world = {"lists": 400, "listeners": {"count": 40}, "catalogue": {"tracks": 100, "artists": 20}}
    done = piano(
        "logs", "simulated", "--config", written(folder / "world.json", world), "--output",
        folder / "log",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = {**QUICK, "training": {**QUICK["training"], "batch_size": 16, "checkpoint_steps": 1}}
    return environment(
        logs=folder / "log",
        home=folder / "home",
        config=written(folder / "config.json", config),
        thresholds=written(folder / "thresholds.json", LENIENT),
    )


@dataclasses.dataclass(frozen=True)
class Killed:
    """A run that was killed again and again, until it came to its end.

    Attributes:
      config: Its own.
      stages: In which it was killed.
      logs: Of each start, in order.
      checkpoint: Epoch and step from which Trainer had to go on.
    """

    config: PipelineConfig
    stages: list[str] = dataclasses.field(default_factory=list)
    logs: list[str] = dataclasses.field(default_factory=list)
    checkpoint: list[int] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="module")
def killed(variables: dict[str, str]) -> Killed:
    """Killed in every stage, and over at last, with a model served."""
    found = Killed(PipelineConfig.from_environment(variables))
    spared, moments = {*SHORT.values()}, [*SHORT]
    while True:
        command = (*_DIES, moments[0]) if moments else RUN
        stage = killed_at_work(variables, spared, command)
        if stage is None:
            break
        if moments and stage == SHORT[moments[0]]:
            moments.pop(0)
        found.stages.append(stage)
        found.logs.append(said(found.config.run_log))
        if stage == "Trainer":
            newest = json.loads(checkpoints(found.config)[-1].read_text())
            found.checkpoint.extend(newest["position"])
        # One that is over before the signal comes has been met as well as it can be.
        spared |= {stage, *finished(found.config.run_log)}
    found.logs.append(said(found.config.run_log))
    return found


def executions(config: PipelineConfig, state: int) -> list[str]:
    """The stages of all executions in a state, but for the resolvers'."""
    store = open_store(config)
    stages = [
        stage_of(store, one) for one in store.get_executions() if one.last_known_state == state
    ]
    return [stage for stage in stages if stage not in _RESOLVERS]


def recorded(config: PipelineConfig) -> list[Path]:
    """The folders that models were pushed to, as ML Metadata has them."""
    records = open_store(config).get_artifacts_by_type("PushedModel")
    pushed = [one.custom_properties for one in records if one.custom_properties["pushed"].int_value]
    assert all(
        one["pushed_destination"].string_value.endswith(f"/{one['pushed_version'].string_value}")
        for one in pushed
    )
    return [Path(one["pushed_destination"].string_value) for one in pushed]


def content(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones too, byte for byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_killed_in_EVERY_STAGE_a_run_finishes_and_pushes_one_model(killed: Killed) -> None:
    config = killed.config
    assert {*killed.stages} >= EVERY_STAGE, killed.stages
    assert killed.stages[-2:] == ["Pusher", "Pusher"], "in the middle of copying, and after it"
    done = executions(config, mlmd.Execution.COMPLETE)
    assert sorted(done) == sorted({*done}), "a finished stage is not repeated"
    assert {*done} >= EVERY_STAGE
    (version,) = config.pushed.iterdir()
    assert recorded(config) == [version]
    assert read_summary(config).pushed == version, "killed before its record, and recorded since"


# --- in the middle of training ---


def test_trainer_goes_on_in_the_middle_of_an_epoch_as_if_it_had_not_been_killed(
    killed: Killed, tmp_path: Path
) -> None:
    epoch, step = killed.checkpoint
    assert epoch == 0
    assert 0 < step < 20, "twenty batches are an epoch"
    (told,) = (log for log in killed.logs if "going on after step" in log)
    assert f"going on after step {step} of epoch 1\n" in told

    training = Training(killed.config, tmp_path, tmp_path / "straight")
    assert "going on" not in training.finish()
    resumed = Path(read_lineage(killed.config).outputs["Trainer", "Model"].uri) / "Format-Serving"
    assert_same_models(resumed, training.model)


# --- what a log may have wrong ---


class Fault(NamedTuple):
    """A log that someone has spoilt.

    Attributes:
      spoil: Makes it of a good one, in a folder; returns the file at fault, where one is.
      stage: Which must refuse it.
      told: What it must name.
    """

    spoil: Callable[[Path, Path], Path | None]
    stage: str
    told: str


def changed(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path, Path], Path]:
    def spoil(logs: Path, folder: Path) -> Path:
        return rewrite(Path(shutil.copytree(logs, folder)), "validation", change)

    return spoil


def poisoned(split: str, change: Callable[[Rows], None]) -> Callable[[Path, Path], None]:
    def spoil(logs: Path, folder: Path) -> None:
        spoilt(logs, folder, split, change)

    return spoil


def truncated(logs: Path, folder: Path) -> Path:
    return cut_off(Path(shutil.copytree(logs, folder)), "test")


FAULTS = {
    "truncated": Fault(truncated, "ExampleGen", "Parquet"),
    "dropped": Fault(
        changed(lambda lists: lists.drop(["item_genre"])), "ExampleGen", "column 'item_genre'"
    ),
    "retyped": Fault(changed(retyped), "ExampleGen", "column 'item_age'"),
    "renamed": Fault(changed(renamed), "ExampleGen", "column 'item_genres'"),
    "labels flipped": Fault(poisoned("train", flip_labels), "DataGate", "column 'click' in train"),
    "ids shuffled": Fault(poisoned("validation", shuffle_items), "DataGate", "in validation"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_bad_log_is_refused_and_what_is_served_stays(
    killed: Killed, variables: dict[str, str], tmp_path: Path, fault: Fault
) -> None:
    config = killed.config
    served = content(config.pushed)
    kept = {name: content(config.artifacts / name) for name in _KEPT}
    file = fault.spoil(config.logs, tmp_path / "log")
    done = run_directly({**variables, **environment(logs=tmp_path / "log", home=config.home)})
    assert done.returncode == 1, done.stdout + done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"error: {fault.stage}: {file or ''}")
    assert fault.told in sentence
    assert f"✗ {fault.stage}" in done.stdout
    assert "Transform" not in done.stdout
    if fault.stage == "DataGate":
        page = config.statistics_page
        assert f"(statistics: {page})" in sentence
        assert f"statistics: {page.as_uri()}" in done.stdout
        assert "facets" in page.read_text()
        kept.pop("ExampleGen/examples")  # they were read, and refused
    assert content(config.pushed) == served
    assert {name: content(config.artifacts / name) for name in kept} == kept


def of_seed(variables: dict[str, str], seed: int, folder: Path) -> dict[str, str]:
    """Those of a run that trains another model on the same log."""
    other = PipelineConfig.from_environment(variables).config.model_dump(mode="json")
    other["training"]["seed"] = seed
    return {**variables, "PIANO_CONFIG": str(written(folder / "other.json", other))}


# --- two at a time ---


def test_two_runs_do_not_share_a_home(killed: Killed, variables: dict[str, str]) -> None:
    with alone(killed.config.home):
        done = run_directly(variables)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {killed.config.home}: another run is at work there; expected one at a time\n"
    )


# --- a full disk ---


def test_a_full_disk_stops_training_and_the_same_command_goes_on_with_room(
    killed: Killed, variables: dict[str, str], tmp_path: Path
) -> None:
    config = killed.config
    asked = of_seed(variables, 2, tmp_path)
    pushed = content(config.pushed)
    with SmallDisk(config.home, room_kb=400) as disk:
        done = disk.run(*RUN, more=asked)
        assert done.returncode == 1, done.stdout
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith(
            f"error: Trainer: no space left on the disk of {config.home}, to write "
        )
        assert sentence.endswith("; the same command goes on once there is room")
        assert "✓ Transform" in done.stdout
        assert "✗ Trainer" in done.stdout
        disk.run("cp", "-a", config.pushed, tmp_path / "then")
        assert content(tmp_path / "then") == pushed

        disk.make_room()
        done = disk.run(*RUN, more=asked)
        assert done.returncode == 0, done.stdout + done.stderr
        disk.run("cp", "-a", config.pushed, tmp_path / "now")
    new = newest_version(tmp_path / "now")
    assert f"pushed: {config.pushed / new.name}\n" in done.stdout
    assert content(tmp_path / "now").items() > pushed.items()


# Over all that the others left.


def test_a_good_run_after_all_of_it_repeats_nothing(
    killed: Killed, variables: dict[str, str]
) -> None:
    config = killed.config
    served, done = content(config.pushed), executions(config, mlmd.Execution.COMPLETE)
    assert killed_at_work(variables, {*done}) is None
    again = read_lineage(config)
    assert again.worked <= _RESOLVERS
    assert content(config.pushed) == served
    assert executions(config, mlmd.Execution.COMPLETE) == done


# The last, for it leaves another model.


def test_a_kill_leaves_what_is_served_and_the_next_run_replaces_it(
    killed: Killed, variables: dict[str, str], tmp_path: Path
) -> None:
    """In training, in the middle of copying a version, and when that is whole but not recorded."""
    config, asked = killed.config, of_seed(variables, 1, tmp_path)
    served = content(config.pushed)
    assert killed_at_work(asked, EVERY_STAGE - {"Trainer"}) == "Trainer"
    assert content(config.pushed) == served
    assert killed_at_work(asked, EVERY_STAGE, (*_DIES, COPYING)) == "Pusher"
    visible = {name: data for name, data in content(config.pushed).items() if name[0] != "."}
    assert visible == served
    assert killed_at_work(asked, EVERY_STAGE, (*_DIES, "Pusher")) == "Pusher"
    assert killed_at_work(asked, EVERY_STAGE) is None
    now = content(config.pushed)
    assert now.items() > served.items()
    assert len([*config.pushed.glob(".*")]) == 0
    assert recorded(config) == sorted(config.pushed.iterdir())
    assert len(recorded(config)) == 2
    assert read_summary(config).pushed == newest_version(config.pushed)
