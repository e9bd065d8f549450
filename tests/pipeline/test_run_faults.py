"""What goes wrong around a run: kills. Poisoned logs: `test_data_gate.py`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd
from pipeline_run import CONFIG, THRESHOLDS, piano, written

from tfx_pipeline.configs import PipelineConfig, environment
from tfx_pipeline.lineage import read_lineage
from tfx_pipeline.pushing import newest_version

# They work for long enough to be met at work.
LONG = {"ExampleGen", "StatisticsGen", "Transform", "Trainer", "Evaluator"}
LONG |= {"DataGate", "ModelGate", "ServingGate"}
# They only look for what a run takes from earlier ones, each time.
_RESOLVERS = {"last_accepted_data", "latest_blessed_model", "window"}
_LOOK_S = 0.05  # how often the log of a run is looked at


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
    config = {**CONFIG, "model": {**CONFIG["model"], "width": 8}}
    config["training"] = {**CONFIG["training"], "checkpoint_steps": 1}
    lenient = {**THRESHOLDS, "calibration": 100.0, "undecided": "bless", "largest_slice_loss": 1.0}
    return environment(
        logs=folder / "log",
        home=folder / "home",
        config=written(folder / "config.json", config),
        thresholds=written(folder / "thresholds.json", lenient),
    )


@contextlib.contextmanager
def started(variables: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A run, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfx_pipeline.local_runner"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def said(run_log: Path) -> str:
    return run_log.read_text(errors="replace") if run_log.exists() else ""


def finished(run_log: Path) -> set[str]:
    """The stages that are over, as the log of a run says."""
    return {*re.findall(r"Component (\S+) is finished\.", said(run_log))}


def at_work(run_log: Path) -> str | None:
    """The stage that is doing its work, and not only looking whether there is any."""
    *_, last = said(run_log).rpartition("Component ")
    stage, _, text = last.partition(" is running.")
    return stage if "Going to run a new execution" in text else None


def killed_at_work(variables: dict[str, str], spared: set[str]) -> str | None:
    """Kills a run in the first stage that is not spared; its name, or None if the run ends."""
    run_log = PipelineConfig.from_environment(variables).run_log
    run_log.unlink(missing_ok=True)
    with started(variables) as process:
        while process.poll() is None:
            if at_work(run_log) not in {None, *spared}:
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
    if process.returncode == 0:
        return None
    assert process.returncode == -signal.SIGKILL, said(run_log)[-3000:]
    return at_work(run_log) or "between two stages"


def executions(config: PipelineConfig, state: int) -> list[str]:
    """The stages of all executions in a state, but for the resolvers'."""
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(config.metadata)
    store = MetadataStore(connection)
    names = {one.id: one.name for one in store.get_contexts_by_type("node")}
    stages = [
        names[context.id].removeprefix("piano.")
        for one in store.get_executions()
        if one.last_known_state == state
        for context in store.get_contexts_by_execution(one.id)
        if context.id in names
    ]
    return [stage for stage in stages if stage not in _RESOLVERS]


def test_killed_in_every_stage_a_run_finishes_and_pushes_one_model(
    variables: dict[str, str],
) -> None:
    config = PipelineConfig.from_environment(variables)
    spared: set[str] = set()
    killed = []
    while (stage := killed_at_work(variables, spared)) is not None:
        killed.append(stage)
        # One that is over before the signal comes has been met as well as it can be.
        spared |= {stage, *finished(config.run_log)}
    assert {*killed} >= LONG, killed

    done = executions(config, mlmd.Execution.COMPLETE)
    assert sorted(done) == sorted({*done}), "a finished stage is not repeated"
    assert {*done} >= LONG | {"Pusher"}
    assert [path.name for path in config.pushed.iterdir()] == [newest_version(config.pushed).name]

    # And once more, with nothing changed: nothing is done, and nothing pushed.
    before = read_lineage(config).outputs["Trainer", "Model"].id
    assert killed_at_work(variables, {*done, *spared}) is None
    assert sorted(executions(config, mlmd.Execution.COMPLETE)) == sorted(done)
    assert read_lineage(config).outputs["Trainer", "Model"].id == before
    assert len([*config.pushed.iterdir()]) == 1
