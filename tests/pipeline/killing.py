"""Runs that are killed while a stage is at work."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from die_at import COPYING
from pipeline_run import RUN

from tfx_pipeline.configs import PipelineConfig

# They work for long enough to be met at work.
LONG = {"ExampleGen", "StatisticsGen", "Transform", "Trainer", "Evaluator"}
LONG |= {"DataGate", "ModelGate", "ServingGate"}
# The others, in order, with moments in them (`die_at.py`).
SHORT = {"SchemaGen": "SchemaGen", "ExampleValidator": "ExampleValidator"}
SHORT |= {COPYING: "Pusher", "Pusher": "Pusher"}
EVERY_STAGE = LONG | {*SHORT.values()}
_LOOK_S = 0.05  # how often the log of a run is looked at


@contextlib.contextmanager
def _started(variables: dict[str, str], command: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A run, in a process group of its own."""
    process = subprocess.Popen(
        command,
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


def at_work(config: PipelineConfig) -> str | None:
    """The stage that is doing its work, and not only looking whether there is any.

    Trainer is once it has written a checkpoint.
    """
    *_, last = said(config.run_log).rpartition("Component ")
    stage, _, text = last.partition(" is running.")
    if "Going to run a new execution" not in text:
        return None
    return stage if stage != "Trainer" or checkpoints(config) else None


def checkpoints(config: PipelineConfig) -> list[Path]:
    """In the order in which they were written."""
    return sorted(config.checkpoints.glob("*/[0-9]*/state.json"))


def killed_at_work(
    variables: dict[str, str], spared: set[str], command: Sequence[str] = RUN
) -> str | None:
    """Kills a run in the first stage that is not spared; its name, or None if the run ends.

    Args:
      variables: Of the run.
      spared: Stages.
      command: The run; it may kill itself.
    """
    config = PipelineConfig.from_environment(variables)
    config.run_log.unlink(missing_ok=True)
    with _started(variables, command) as process:
        while process.poll() is None:
            if at_work(config) not in {None, *spared}:
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
    if process.returncode == 0:
        return None
    assert process.returncode == -signal.SIGKILL, said(config.run_log)[-3000:]
    return at_work(config) or "between two stages"
