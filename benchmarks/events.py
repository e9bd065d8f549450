"""How long building lists from raw events takes, and in how much memory, as the log grows.

    nice -n 5 .venv/bin/python benchmarks/events.py 1 4 16 --output docs/events_growth

Sizes are millions of events: searches, clicks and conversions. A larger log lasts longer, with as
many events a day, and has so many more users that each has as many events. Three more runs are of
the second size: one of the users of the first, whose histories are fuller; one in the days of the
first, so that its days are fuller; and one with a user who has 5 % of all events. Prints a row for
each run, with times and memory as ratios to the first, and writes the table (`.md`) and a plot
(`.svg`). What stands after `--` are options of the Beam runner.

The events are drawn here and not by the simulated world, whose own work takes longer. Users search
in proportion to rank^-0.7; lists have 10 to 30 items and on average 1.6 clicks, minutes later, and
0.25 conversions, hours later. A fifth of the acts have no request id, one in a hundred comes twice.
Each run is a process of its own, after its events were written. Memory is the sum of the
proportional set sizes of that process and all that it starts, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from measuring import from_nothing, markdown, usage, watched, write

from piano_tf.features import SPLITS
from piano_tf.pages import COLOURS, INK

DAY = 86_400
START = 1_704_067_200  # 2024-01-01 00:00 UTC
DAYS = 30  # of the first size
USERS = 100_000  # of the first size
ITEMS, QUERIES = 4_001, 20_000  # a prime number of items, see `_day`
SHORTEST, LONGEST = 10, 30
CLICKS, CONVERSIONS = 1.6, 0.25  # a list
HOT = 0.05


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run is given.

    Attributes:
      name: For people.
      events: About how many.
      days: Over which they are spread evenly.
      users: Of whom they are.
      hot: Share of them that are of one user, beside the users that all runs have.
    """

    name: str
    events: int
    days: int
    users: int
    hot: float = 0.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a run.

    Attributes:
      run: Which.
      events, lists: How many there were, and how many were built of them.
      history: Mean number of entries in the history of a list.
      seconds: Stage -> how long it took, in order.
      work: Stage -> seconds that processors worked for it in the job's own process.
      processor: The same of all processes, from their start to their end.
      peak: MiB of the whole tree of processes.
      start: MiB when the job began, with all that it imports.
    """

    run: Run
    events: int
    lists: int
    history: float
    seconds: dict[str, float]
    work: dict[str, float]
    processor: float
    peak: float
    start: float

    @property
    def whole(self) -> float:
        """Seconds from start to end."""
        return sum(self.seconds.values())


# --- events ---


def write_events(run: Run, folder: Path) -> int:
    """Writes event tables, one file a table and day, and their mapping; returns how many events."""
    rng = np.random.default_rng(0)
    weight = np.arange(1, run.users + 1) ** -0.7
    reached = np.cumsum(weight / weight.sum())
    names = {
        "user": pa.array([f"user-{number}" for number in range(run.users + 1)]),
        "item": pa.array([f"item-{number}" for number in range(ITEMS)]),
        "query": pa.array([f"word{n % 141} word{n // 141}" for n in range(QUERIES)]),
        "kind": pa.array(["purchase", "favourite"]),
        "brand": pa.array([f"brand-{number}" for number in range(200)]),
        "device": pa.array(["phone", "desktop"]),
    }
    lists_a_day = int(run.events / run.days / (1 + CLICKS + CONVERSIONS))
    count = 0
    for day in range(run.days):
        tables = _day(rng, day, lists_a_day, reached, names, run.hot)
        for table, values in tables.items():
            (folder / table).mkdir(exist_ok=True)
            pq.write_table(values, folder / table / f"part-{day:05}.parquet")
        count += sum(len(tables[table]) for table in ("search", "click", "conversion"))
    (folder / "mapping.json").write_text(json.dumps(_mapping(run)))
    return count


def _day(
    rng: np.random.Generator,
    day: int,
    lists: int,
    reached: np.ndarray,
    names: dict[str, pa.Array],
    hot: float,
) -> dict[str, pa.Table]:
    """The tables of one day."""
    users = len(reached)
    user = np.minimum(np.searchsorted(reached, rng.random(lists)), users - 1)
    user[rng.random(lists) < hot] = users
    moment = START * 10**6 + DAY * 10**6 * day + np.sort(rng.integers(0, DAY * 10**6, lists))
    length = rng.integers(SHORTEST, LONGEST + 1, lists)
    row = np.repeat(np.arange(lists), length)
    offsets = np.concatenate([[0], np.cumsum(length)])
    rank = np.arange(len(row)) - offsets[row]
    # Steps through a prime number of items never meet one twice.
    first, step = rng.integers(0, ITEMS, lists), rng.integers(1, ITEMS, lists)
    item = (first[row] + step[row] * rank) % ITEMS
    request = pa.array(np.char.add(f"r{day}-", np.arange(lists).astype(str)))
    search = pa.table(
        {
            "request_id": request,
            "user_id": names["user"].take(pa.array(user)),
            "time": moment,
            "query": names["query"].take(pa.array(rng.integers(0, QUERIES, lists))),
            "item_id": pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), names["item"].take(pa.array(item))
            ),
            "device": names["device"].take(pa.array(rng.integers(0, 2, lists))),
        }
    )
    tables = {"search": search}
    mean = (SHORTEST + LONGEST) / 2
    for table, rate, delay in (("click", CLICKS, 90), ("conversion", CONVERSIONS, 7_200)):
        place = np.flatnonzero(rng.random(len(row)) < rate / mean)
        place = np.sort(np.concatenate([place, place[rng.random(len(place)) < 0.01]]))
        again = np.concatenate([[False], place[1:] == place[:-1]])
        of_list = row[place]
        late = np.minimum(rng.exponential(delay * 1e6, len(place)), DAY * 1e6 - 1).astype(np.int64)
        late = np.where(again, np.roll(late, 1), late)
        unnamed = rng.random(len(place)) < 0.2
        unnamed = np.where(again, np.roll(unnamed, 1), unnamed)
        columns = {
            "request_id": request.take(pa.array(of_list, mask=unnamed)),
            "user_id": names["user"].take(pa.array(user[of_list])),
            "item_id": names["item"].take(pa.array(item[place])),
            "time": moment[of_list] + late,
        }
        if table == "conversion":
            columns["kind"] = names["kind"].take(pa.array(item[place] % 2))
        tables[table] = pa.table(columns)
    everything = np.arange(ITEMS)
    if day % 10 == 0:
        tables["item"] = pa.table(
            {
                "item_id": names["item"],
                "valid_from": np.full(ITEMS, (START + DAY * day) * 10**6),
                "brand": names["brand"].take(pa.array(everything % 200)),
                "price": (1.0 + everything % 50 + day).astype(np.float32),
            }
        )
    return tables


def _mapping(run: Run) -> dict[str, Any]:
    """What the tables are."""

    def table(name: str, *columns: str) -> dict[str, Any]:
        return {"files": f"{name}/*.parquet", "columns": {column: column for column in columns}}

    act = ("request_id", "user_id", "item_id", "time")
    return {
        "dataset": "benchmark",
        "time_unit": "us",
        "search": {
            **table("search", "request_id", "user_id", "time", "query", "item_id"),
            "context": {"device": {"column": "device", "type": "string"}},
        },
        "click": table("click", *act),
        "conversion": table("conversion", *act, "kind"),
        "item": {
            **table("item", "item_id", "valid_from"),
            "features": {
                "brand": {"column": "brand", "type": "string"},
                "price": {"column": "price", "type": "float"},
            },
        },
        "history_item": ["brand"],
        "attribution": {"click_window": DAY, "default_conversion_window": DAY},
        "until": START + DAY * (run.days + 1),
    }


# --- one run ---


def build(folder: Path, beam_args: list[str]) -> None:
    """Runs the job in this process, and prints what it took as one line of JSON."""
    from piano_tf.data.splits import ByShare
    from tfx_pipeline.events.config import EventsConfig
    from tfx_pipeline.events.job import run

    config = EventsConfig.load(folder / "mapping.json")
    start_memory = usage(psutil.Process()).memory
    # What comes before the first stage is the runner's.
    began = {"start": (time.perf_counter(), time.process_time())}

    def progress(stage: str, done: int, total: int) -> None:
        began.setdefault(stage, (time.perf_counter(), time.process_time()))

    run(folder, config, folder / "logs", ByShare(), beam_args=beam_args, progress=progress)
    moments = [*began.values(), (time.perf_counter(), time.process_time())]
    seconds, work = (
        dict(zip(began, np.diff(clock).tolist(), strict=True))
        for clock in zip(*moments, strict=True)
    )
    print(json.dumps({"seconds": seconds, "work": work, "start": start_memory}))


def measure(run: Run, beam_args: list[str]) -> Measured:
    """Writes a run's events, and looks at a process that builds their lists."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # Likewise a process of its own, for its memory would not all come back.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            events = pool.apply(write_events, (run, folder))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, __file__, "--build", str(folder), "--", *beam_args]
        with (
            (folder / "stderr").open("w+") as complaints,
            psutil.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process,
        ):
            peak = max(seen.memory for seen in watched(process))
            assert process.stdout is not None
            said = process.stdout.read()
            if process.returncode:
                complaints.seek(0)
                raise SystemExit(complaints.read())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        found = json.loads(said.splitlines()[-1])
        lists, entries = _written(folder / "logs")
    return Measured(
        run,
        events,
        lists,
        entries / lists,
        found["seconds"],
        found["work"],
        processor,
        peak,
        found["start"],
    )


def _written(log_dir: Path) -> tuple[int, int]:
    """How many lists a log has, and how many entries their histories."""
    lists = entries = 0
    for split in SPLITS:
        for file in (log_dir / split).glob("*.parquet"):
            ages = pq.ParquetFile(file).read(["history_age"]).column(0)
            lists += len(ages)
            entries += pc.sum(pc.list_value_length(ages)).as_py()
    return lists, entries


# --- all of them ---


def runs_of(millions: list[float]) -> list[Run]:
    """The runs of some sizes."""
    sizes = [round(1e6 * size) for size in millions]
    runs = []
    for size in sizes:
        times = size / sizes[0]
        runs.append(Run(f"{size / 1e6:g} M", size, round(DAYS * times), round(USERS * times)))
    more = runs[min(1, len(runs) - 1)]
    return [
        *runs,
        dataclasses.replace(more, name=f"{more.name} of {USERS:,} users", users=USERS),
        dataclasses.replace(more, name=f"{more.name} in {DAYS} days", days=DAYS),
        dataclasses.replace(more, name=f"{more.name}, {HOT:.0%} of one user", hot=HOT),
    ]


def table(found: list[Measured]) -> str:
    """A row for each run, in Markdown; of stages the seconds, and in brackets the processor's."""
    stages = list(dict.fromkeys(stage for one in found for stage in one.seconds))
    header = ["events", "users", "days", "lists", "mean history"]
    header += ["s", "ratio", "processor s", "ratio", "events/s", "peak MiB", "ratio", *stages]
    rows = []
    for one in found:
        rows.append(
            [
                f"{one.run.name} ({one.events:,})",
                f"{one.run.users:,}",
                f"{one.run.days}",
                f"{one.lists:,}",
                f"{one.history:.1f}",
                f"{one.whole:.1f}",
                f"{one.whole / found[0].whole:.2f}",
                f"{one.processor:.1f}",
                f"{one.processor / found[0].processor:.2f}",
                f"{one.events / one.whole:,.0f}",
                f"{one.peak:,.0f}",
                f"{one.peak / found[0].peak:.2f}",
                *(
                    f"{one.seconds.get(stage, 0.0):.1f} ({one.work.get(stage, 0.0):.1f})"
                    for stage in stages
                ),
            ]
        )
    return markdown(header, rows)


def plot(found: list[Measured]) -> Figure:
    """Processor seconds by stage and peak memory against the number of events.

    A processor's seconds are the same on a machine that does other things too.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    times, memory = figure.subplots(1, 2)
    grown = [one for one in found if one.run.name == f"{one.run.events / 1e6:g} M"]
    millions = [one.events / 1e6 for one in grown]
    stages = list(dict.fromkeys(stage for one in grown for stage in one.seconds))
    times.stackplot(
        millions,
        [[one.work.get(stage, 0.0) for one in grown] for stage in stages],
        labels=stages,
        colors=COLOURS,
    )
    work = [sum(one.work.values()) for one in grown]
    linear = [work[0] * events / millions[0] for events in millions]
    times.plot(millions, linear, color=INK, linestyle=":", label="linear")
    times.set_ylabel("processor seconds")
    memory.plot(millions, [one.peak for one in grown], marker="o", color=COLOURS[0], label="peak")
    start = [one.start for one in grown]
    memory.plot(millions, start, marker="o", color=COLOURS[1], label="before the job")
    for one, marker in zip((one for one in found if one not in grown), "sD^v", strict=False):
        at = {"marker": marker, "linestyle": "", "label": one.run.name}
        times.plot([one.events / 1e6], [sum(one.work.values())], color=INK, **at)
        memory.plot([one.events / 1e6], [one.peak], color=INK, **at)
    memory.set_ylabel("MiB, all processes")
    from_nothing(figure, "million events")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("millions", type=float, nargs="*", default=[1.0, 4.0, 16.0])
    parser.add_argument("--output", type=Path, help="Without its ending.")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    ours, beam_args = sys.argv[1:], []
    if "--" in ours:
        at = ours.index("--")
        ours, beam_args = ours[:at], ours[at + 1 :]
    chosen = parser.parse_args(ours)
    if chosen.build:
        build(chosen.build, beam_args)
        return
    found = []
    for run in runs_of(chosen.millions):
        one = measure(run, beam_args)
        print(
            f"{run.name}: {one.whole:.0f} s, {one.processor:.0f} of processors, {one.peak:.0f} MiB"
        )
        sys.stdout.flush()
        found.append(one)
    print(table(found))
    if chosen.output:
        write(chosen.output, table(found), lambda: plot(found))


if __name__ == "__main__":
    main()
