"""What a server does over an hour of steady load: whether it slows down, grows, or fails a request.

    .venv/bin/python benchmarks/soak.py --model FOLDER --output docs/soak
    .venv/bin/python benchmarks/soak.py --seconds 300 --rate 10 -- --some-option-of-piano-serve

Starts `piano serve`, with the options after `--`, on a copy of the newest version in `--model`, or
else on a model that it trains first (served_model.py). Requests are due at a steady rate,
in turns from 8 callers, each with a connection of its own; a caller sends its next one when it is
due, or at once if the last answer came later than that. An answer's time counts from when its
request was due, so that a server which falls behind looks as slow as it is to those who wait. Lists
are those of served_model.py; every tenth request is a list of another length. Every ten minutes the
model is pushed again under the next number, and the folders of those before it are removed.

Prints a row for each minute: the version that answered, the answers and what they took, those that
came after their caller's next request was due, errors, and the server's processor time, memory,
threads and open files at the end of the minute. Writes the table (`.md`) and a plot (`.svg`). Ends
with 1 if any request failed, or a version did not take over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import psutil
from matplotlib.figure import Figure
from measuring import from_nothing, markdown, usage, write
from served_model import TIMEOUT_S, columns_of, encoded, newest, search_lists, served, trained

from piano_tf.pages import COLOURS
from serving.client.messages import METHODS, PredictResponse

NAME = "piano"
CALLERS = 8
# Candidates and entries of history: nine requests of ten, and the others in turns.
USUAL = (100, 50)
OTHERS = ((10, 0), (50, 200), (300, 50))
EVERY = 10
# Rows at both ends that are compared.
SETTLED, COMPARED = 5, 10
TAKES_OVER_S = 300.0


@dataclasses.dataclass
class Row:
    """What came of a minute.

    Attributes:
      minute: In which it ends, counted from the start.
      version: That answered last.
      took: Seconds of each answer, from when its request was due.
      late: Answers that came after their caller's next request was due.
      errors: Other statuses than OK.
      work: Processor seconds of the server.
      memory: MiB of the server at its end.
      threads, files: Of the server at its end.
    """

    minute: float = 0.0
    version: int = 0
    took: list[float] = dataclasses.field(default_factory=list)
    late: int = 0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    work: float = 0.0
    memory: float = 0.0
    threads: int = 0
    files: int = 0

    def cells(self) -> list[str]:
        """For the table."""
        answers = len(self.took)
        return [
            f"{self.minute:g}",
            f"{self.version}",
            f"{answers:,}",
            f"{ms([self], 50):.1f}",
            f"{ms([self], 99):.1f}",
            f"{self.late}",
            ", ".join(f"{code} {n}" for code, n in sorted(self.errors.items())) or "0",
            f"{1000 * self.work / answers:.1f}" if answers else "",
            f"{self.memory:,.0f}",
            f"{self.threads}",
            f"{self.files}",
        ]


HEADER = (
    *("minute", "version", "answers", "p50, ms", "p99, ms", "late", "errors"),
    *("processor ms / answer", "MiB", "threads", "files"),
)


def ms(rows: Sequence[Row], percentile: float) -> float:
    """A percentile over all answers of some rows, in milliseconds."""
    took = [seconds for row in rows for seconds in row.took]
    return 1000 * float(np.percentile(took, percentile)) if took else math.nan


# --- the load ---


def mixed(address: str) -> list[bytes]:
    """Requests to send in turns, one list each."""
    columns = columns_of(address, NAME)
    usual, *others = (
        encoded(search_lists(columns, *lengths), columns, NAME) for lengths in (USUAL, *OTHERS)
    )
    rare = itertools.cycle(request for of_all in zip(*others, strict=True) for request in of_all)
    return [
        next(rare) if number % EVERY == EVERY - 1 else usual[number % len(usual)]
        for number in range(EVERY * len(usual))
    ]


class Soak:
    """Asks a server at a steady rate, pushes versions, and keeps the rows.

    Args:
      address: Of the server.
      server: Its process.
      versions: The folder that it serves, which holds one version.
      args: See `main`.
    """

    def __init__(
        self, address: str, server: psutil.Process, versions: Path, args: argparse.Namespace
    ) -> None:
        self._address = address
        self._server = server
        self._versions = versions
        self._args = args
        self._requests = mixed(address)
        self._row = Row()
        self._version = 0
        self._over = False
        self.rows: list[Row] = []
        self.faults: list[str] = []

    async def run(self) -> None:
        """All of it."""
        start = usage(self._server)
        self._began, self._worked = start.moment, start.processor
        await asyncio.gather(self._watch(), *(self._call(number) for number in range(CALLERS)))
        # Answers that come after the last minute are not counted, but what fails is.
        self.rows[-1].errors += self._row.errors

    async def _call(self, caller: int) -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options) as channel:
            predict = channel.unary_unary(METHODS["Predict"][0])
            for turn in itertools.count(caller, CALLERS):
                due = self._began + turn / self._args.rate
                await asyncio.sleep(due - time.perf_counter())
                if self._over:
                    return
                request = self._requests[turn % len(self._requests)]
                try:
                    answer = await predict(request, timeout=TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    self._row.errors[error.code().name] += 1
                    continue
                took = time.perf_counter() - due
                self._version = PredictResponse.FromString(answer).model_spec.version.value
                self._row.took.append(took)
                self._row.late += took > CALLERS / self._args.rate

    async def _watch(self) -> None:
        """Ends a row a minute, and pushes versions, until the time is over."""
        pushing: asyncio.Task[None] | None = None
        print(markdown(HEADER, []), flush=True)
        try:
            for minute in range(1, math.ceil(self._args.seconds / self._args.every) + 1):
                ends = self._began + minute * self._args.every
                await asyncio.sleep(ends - time.perf_counter())
                await self._end_row()
                if minute % self._args.rows_per_version == 0:
                    if pushing is not None:
                        await pushing
                    pushing = asyncio.create_task(self._push())
            if pushing is not None:
                await pushing
        finally:
            self._over = True

    async def _end_row(self) -> None:
        # Reading the memory's maps takes a moment, in which requests are due.
        now = await asyncio.to_thread(usage, self._server)
        row, self._row = self._row, Row()
        row.minute = round((now.moment - self._began) / 60, 2)
        row.version = self._version
        row.work, self._worked = now.processor - self._worked, now.processor
        row.memory = now.memory
        row.threads, row.files = self._server.num_threads(), self._server.num_fds()
        self.rows.append(row)
        print(f"| {' | '.join(row.cells())} |", flush=True)

    async def _push(self) -> None:
        """Pushes a copy of the version, waits until it answers, and removes the one before it."""
        old = newest(self._versions)
        new = await asyncio.to_thread(copied, old, self._versions, int(old.name) + 1)
        ends = time.perf_counter() + TAKES_OVER_S
        while self._version != int(new.name):
            if time.perf_counter() > ends:
                self.faults.append(f"version {new.name} did not take over in {TAKES_OVER_S:g} s")
                return
            await asyncio.sleep(0.1)
        await asyncio.to_thread(shutil.rmtree, old)


def copied(version: Path, versions: Path, number: int) -> Path:
    """Pushes a copy of a version, which is whole or not there."""
    partial = versions / f"{number}.partial"
    shutil.copytree(version, partial)
    return partial.rename(versions / str(number))


# --- the table ---


def summary(rows: Sequence[Row]) -> str:
    """The end against the beginning."""
    settled, last = rows[:SETTLED][-1], rows[-1]
    answers, errors = sum(len(row.took) for row in rows), sum(row.errors.total() for row in rows)
    first, end = ms(rows[:COMPARED], 99), ms(rows[-COMPARED:], 99)
    return (
        f"{answers:,} answers, {errors} errors, {sum(row.late for row in rows)} late. "
        f"Memory: {last.memory:,.0f} MiB after {last.minute:g} minutes, {settled.memory:,.0f} "
        f"after {settled.minute:g}: {last.memory / settled.memory:.2f} times. "
        f"p99 of the last {min(COMPARED, len(rows))} rows: {end:.1f} ms, of the first {first:.1f}: "
        f"{end / first:.2f} times."
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown, a line for each row, and the summary."""
    return "\n".join([markdown(HEADER, [row.cells() for row in rows]), "", summary(rows)])


def plot(rows: Sequence[Row]) -> Figure:
    """Memory and answer times against minutes."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    memory, times = figure.subplots(1, 2)
    minutes = [row.minute for row in rows]
    memory.plot(minutes, [row.memory for row in rows], color=COLOURS[0], label="memory")
    memory.set_ylabel("MiB")
    for percentile, colour in ((99, COLOURS[1]), (50, COLOURS[0])):
        took = [ms([row], percentile) for row in rows]
        times.plot(minutes, took, color=colour, label=f"p{percentile}")
    times.set_ylabel("ms")
    from_nothing(figure, "minutes")
    return figure


def main() -> int:
    """Returns 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="Folder of versions; else one is trained.")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=20, help="Requests a second.")
    parser.add_argument("--every", type=float, default=60, help="Seconds of a row.")
    parser.add_argument("--rows-per-version", type=int, default=10, help="Between two pushes.")
    parser.add_argument("--output", type=Path, help="Without its ending.")
    parser.add_argument("serve", nargs="*", help="Options of `piano serve`, after --.")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        versions = folder / "pushed"
        versions.mkdir()
        copied(newest(args.model or trained(folder)), versions, 1)
        address, server = stack.enter_context(served(versions, args.serve))
        soak = Soak(address, server, versions, args)
        try:
            asyncio.run(soak.run())
        except psutil.Error:
            soak.faults.append("the server ended")
    print(f"\n{summary(soak.rows)}" if soak.rows else "")
    for fault in soak.faults:
        print(f"fault: {fault}")
    if args.output is not None and soak.rows:
        write(args.output, table(soak.rows), lambda: plot(soak.rows))
    return int(bool(soak.faults) or any(row.errors for row in soak.rows))


if __name__ == "__main__":
    sys.exit(main())
