"""How long a run of the pipeline takes, stage by stage, and in how much memory, as its log grows.

    nice -n 5 .venv/bin/python benchmarks/pipeline.py --output docs/pipeline_growth

For each number of lists: simulates a log of the default world, whose days, listeners and tracks
stay as they are, cut in time into train, validation and test (80, 10 and 10 %); runs `piano
pipeline` on it in a fresh home, with the default configuration but for the epochs of training (one,
or `--epochs`); and prints what that took. At the end comes a table (`.md`), with ratios to the
first size, and a plot (`.svg`). `--logs FOLDER` keeps the logs, and takes those that are there.

A stage ends when the run says so. Its processor seconds are those of all processes that the run
started, its memory the most that the sum of their proportional set sizes was in it; both are looked
at twice a second. What comes before the first stage, and after the last, is `start` and `end`.
A processor's seconds hardly depend on what else a machine does; seconds do.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from matplotlib.figure import Figure
from measuring import Usage, from_nothing, markdown, watched, write

from piano_tf.data.logs import rows_of, split_files
from piano_tf.pages import COLOURS, INK, MARK

_PIANO = [sys.executable, "-c", "from piano_tf.cli import main; main()"]
_STAGE = re.compile(r"^  (?P<mark>[✓✗]) (?P<stage>\S+) +(?P<seconds>[0-9.]+) s$")
_TRAINER = "Trainer"
_BEFORE, _AFTER = "start", "end"
_PAUSE = 0.5


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage took.

    Attributes:
      name: TFX's name of it.
      seconds: By the clock.
      work: Seconds of processors.
      peak: MiB.
    """

    name: str
    seconds: float
    work: float
    peak: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run.

    Attributes:
      lists: How many the log has.
      trained: How many of them are of its training split.
      stages: In order.
    """

    lists: int
    trained: int
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def work(self) -> float:
        return sum(stage.work for stage in self.stages)

    @property
    def peak(self) -> float:
        return max(stage.peak for stage in self.stages)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


# --- one run ---


def simulated(lists: int, logs: Path) -> Path:
    """A log of the simulated world; one that is there already is taken as it is."""
    log = logs / f"{lists}"
    if not log.exists():
        options = ["--lists", f"{lists}", "--output", str(log)]
        subprocess.run([*_PIANO, "logs", "simulated", *options], check=True, capture_output=True)
    return log


def measure(log: Path, epochs: int) -> Measured:
    """Looks at a first run of the pipeline on a log."""
    counts = {
        split: sum(map(rows_of, split_files(log, split)))
        for split in ("train", "validation", "test")
    }
    with tempfile.TemporaryDirectory(dir=log.parent) as scratch:
        config, home = Path(scratch) / "config.json", Path(scratch) / "run"
        config.write_text(json.dumps({"training": {"epochs": epochs}}))
        command = [*_PIANO, "pipeline", "--logs", str(log), "--home", str(home)]
        started = time.perf_counter()
        with (
            (Path(scratch) / "stderr").open("w+") as complaints,
            psutil.Popen(
                [*command, "--config", str(config)],
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            ) as process,
        ):
            ends: list[tuple[str, float, float]] = []
            reader = threading.Thread(target=_listen, args=(process, ends))
            reader.start()
            seen = list(watched(process, _PAUSE))
            reader.join()
            if process.returncode:
                complaints.seek(0)
                raise SystemExit(complaints.read())
    return Measured(sum(counts.values()), counts["train"], tuple(_stages(started, ends, seen)))


def _listen(process: psutil.Popen, ends: list[tuple[str, float, float]]) -> None:
    """Each stage that ended, its seconds and when that was, from what the run prints."""
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := _STAGE.match(line.rstrip()):
            ends.append((found["stage"], float(found["seconds"]), time.perf_counter()))


def _stages(
    started: float, ends: list[tuple[str, float, float]], seen: list[Usage]
) -> Iterator[Stage]:
    """What was seen, cut at the ends of stages: the moments between two are the next one's."""
    _, seconds, end = ends[0]
    cuts = [(_BEFORE, end - seconds), *((name, end) for name, _, end in ends)]
    begin, work = started, 0.0
    for name, end in [*cuts, (_AFTER, seen[-1].moment)]:
        within = [one for one in seen if begin <= one.moment <= end]
        done = max((one.processor for one in within), default=work)
        peak = max((one.memory for one in within), default=0.0)
        yield Stage(name, end - begin, done - work, peak)
        begin, work = end, done


# --- all of them ---


def table(found: list[Measured]) -> str:
    """A row for each stage, in Markdown; columns by size, with ratios to the first."""
    first = found[0]
    header = ["stage"]
    for one in found:
        header += [f"{one.lists:,} lists: s", "processor s", "MiB"]
    rows = [_row(name, [one.stage(name) for one in found]) for name in _names(first)]
    whole = [Stage("the whole run", one.seconds, one.work, one.peak) for one in found]
    rows.append(_row(whole[0].name, whole))
    rows.append(["lists", *_ratios([one.lists for one in found], 2)])
    trainers = [one.stage(_TRAINER) for one in found]
    shares = ["of the run Trainer's"]
    speeds = ["lists/s of Trainer"]
    for one, trainer in zip(found, trainers, strict=True):
        shares += [f"{trainer.seconds / one.seconds:.0%}", f"{trainer.work / one.work:.0%}", ""]
        speeds += [f"{one.trained / trainer.seconds:,.0f}"]
        speeds += [f"{one.trained / trainer.work:,.0f}", ""]
    return markdown(header, [*rows, shares, speeds])


def _names(one: Measured) -> list[str]:
    """The stages to show: what takes no second is left out."""
    return [stage.name for stage in one.stages if stage.seconds >= 1]


def _row(name: str, stages: list[Stage]) -> list[str]:
    cells = [name]
    for one in stages:
        for value, base in (
            (one.seconds, stages[0].seconds),
            (one.work, stages[0].work),
            (one.peak, stages[0].peak),
        ):
            ratio = f" ({value / base:.1f})" if one is not stages[0] and base else ""
            cells.append(f"{value:,.0f}{ratio}")
    return cells


def _ratios(values: list[int], empty: int) -> list[str]:
    cells = []
    for value in values:
        ratio = f" ({value / values[0]:.1f})" if value != values[0] else ""
        cells += [f"{value:,}{ratio}", *[""] * empty]
    return cells


def plot(found: list[Measured]) -> Figure:
    """Processor seconds by stage, and peak memory of each, against the number of lists."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    times, memory = figure.subplots(1, 2)
    lists = [one.lists for one in found]
    last = found[-1]
    # The stages that matter at the largest size; the rest is one.
    shown = sorted(_names(last), key=lambda name: -last.stage(name).work)[: len(COLOURS) - 1]
    parts = {name: [one.stage(name).work for one in found] for name in shown}
    parts["all others"] = [one.work - sum(one.stage(name).work for name in shown) for one in found]
    times.stackplot(lists, list(parts.values()), labels=list(parts), colors=COLOURS)
    linear = [found[0].work * size / lists[0] for size in lists]
    times.plot(lists, linear, color=INK, linestyle=":", label="linear from the first")
    times.set_ylabel("processor seconds")
    for name, colour in zip(shown, COLOURS, strict=False):
        of_stage = [one.stage(name).peak for one in found]
        memory.plot(lists, of_stage, marker="o", color=colour, label=name)
    memory.plot(lists, [one.peak for one in found], color=MARK, linestyle="--", label="whole run")
    memory.set_ylabel("MiB, all processes")
    from_nothing(figure, "lists")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", type=int, nargs="*", default=[50_000, 200_000, 800_000])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--output", type=Path, help="Without its ending.")
    parser.add_argument("--logs", type=Path, help="Folder to keep logs in.")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        logs = chosen.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = []
        for lists in chosen.lists:
            found.append(measure(simulated(lists, logs), chosen.epochs))
            print(table(found), flush=True)
            if chosen.output:
                write(chosen.output, table(found), lambda: plot(found))


if __name__ == "__main__":
    main()
