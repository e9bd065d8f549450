"""What a served model answers under load, as ratios to its step in process and to one caller.

    .venv/bin/python benchmarks/serving_load.py --seconds 60 --batching-beside
    .venv/bin/python benchmarks/serving_load.py --address 127.0.0.1:8500
    .venv/bin/python benchmarks/serving_load.py --model trained -- --some-option-of-piano-serve

Without `--address` it starts `piano serve`, with the options after `--`, on the folder of versions
given by `--model`, or else on a model that it trains first (served_model.py). The server is a
process of its own.

With `--batching-beside` a second server, which batches, takes its turns with the first.

Callers ask in a closed loop: each sends its next request when it has the answer to the last. The
requests are 16 lists of 100 candidates with 50 entries of history, made up by the model's inputs,
and encoded once before, so that the load costs little beside the server on the same machine; one
more row is asked through `RerankClient`, whose checks and encoding are part of what it measures.
The served step is the same requests, as arrays, through the same graph in a session of a process of
its own, with as many threads for an operation; it is known only where the model's folder is. Step
and levels take turns, a part of their time each, so that what else the machine does meets them all.
Processor time is that of the server's process, or the step's, for each answer: it also holds where
other programs keep the machine busy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from served_model import (
    LISTS,
    OUTPUTS,
    TIMEOUT_S,
    columns_of,
    encoded,
    newest,
    search_lists,
    served,
    trained,
)

from serving.client.aio import AsyncRerankClient
from serving.client.connection import channel_to
from serving.client.messages import METHODS
from serving.client.search_list import SearchList

THREADS = "--intra-op-threads"  # of `piano serve`


# --- what is measured ---

Ask = Callable[[int], Awaitable[str]]


@dataclasses.dataclass
class Level:
    """What came of a number of callers, or of the served step.

    Attributes:
      name: For people.
      took: Seconds of each answer.
      lasted: Seconds in all.
      worked: Seconds of processor time, where the process is known.
      errors: Other statuses than OK.
    """

    name: str
    took: list[float] = dataclasses.field(default_factory=list)
    lasted: float = 0.0
    worked: float = 0.0
    errors: Counter = dataclasses.field(default_factory=Counter)

    def ms(self, percentile: float) -> float:
        return 1000 * float(np.percentile(self.took, percentile)) if self.took else math.nan

    @property
    def throughput(self) -> float:
        return len(self.took) / self.lasted

    @property
    def work_ms(self) -> float:
        return 1000 * self.worked / len(self.took) if self.took else math.nan


def worked(process: psutil.Process | None) -> float:
    """Seconds of processor time so far."""
    return sum(process.cpu_times()[:2]) if process is not None else 0.0


async def ask_for(level: Level, ask: Ask, callers: int, seconds: float) -> None:
    """Callers in a closed loop.

    Args:
      level: To add to.
      ask: Sends a request by number and says its status.
      callers: How many.
      seconds: How long.
    """
    numbers = itertools.count()
    began = time.perf_counter()

    async def caller() -> None:
        while (sent := time.perf_counter()) < began + seconds:
            status = await ask(next(numbers))
            if status == "OK":
                level.took.append(time.perf_counter() - sent)
            else:
                level.errors[status] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    level.lasted += time.perf_counter() - began


def raw(channel: grpc.aio.Channel, requests: Sequence[bytes]) -> Ask:
    """Sends requests that are encoded already."""
    predict = channel.unary_unary(METHODS["Predict"][0])

    async def ask(number: int) -> str:
        try:
            await predict(requests[number % LISTS], timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    return ask


def typed(client: AsyncRerankClient, lists: Sequence[SearchList]) -> Ask:
    """Asks for lists as a caller of ours does."""

    async def ask(number: int) -> str:
        reason = (await client.rank(lists[number % LISTS])).reason
        return reason.code if reason else "OK"

    return ask


async def take_turns(
    servers: Mapping[str, tuple[str, psutil.Process | None]],
    lists: Sequence[SearchList],
    requests: Sequence[bytes],
    step: subprocess.Popen[str] | None,
    args: argparse.Namespace,
) -> tuple[list[Level], Level]:
    """Measures every level, the client, and the served step, some of each in every round.

    Args:
      servers: What is said of a server after the number of callers -> its address and process.
      lists, requests: The same lists, as they are and encoded.
      step: The process of the served step.
      args: See `main`.
    """
    steps = Level("served step")
    async with contextlib.AsyncExitStack() as stack:
        ways: list[tuple[Level, Ask, int, psutil.Process | None]] = []
        for said, (address, server) in servers.items():
            ask = raw(
                await stack.enter_async_context(channel_to(grpc.aio, address, None)), requests
            )
            ways += [
                (Level(f"{callers}{said}"), ask, callers, server) for callers in args.concurrency
            ]
        address, server = next(iter(servers.values()))
        client = await stack.enter_async_context(
            AsyncRerankClient(address, args.name, timeout_s=TIMEOUT_S)
        )
        ways.append((Level("1, by the client"), typed(client, lists), 1, server))
        part = args.seconds / args.rounds
        for round_ in range(args.rounds):
            if step is not None:
                answer = await asyncio.to_thread(ask_steps, step, part / 4)
                steps.took += answer["took"]
                steps.worked += answer["worked"]
            for level, ask, callers, server in ways:
                # What the first answers of a level build is not measured.
                await ask_for(Level("warm-up"), ask, callers, 0.5 if round_ == 0 else 0.0)
                before = worked(server)
                await ask_for(level, ask, callers, part)
                level.worked += worked(server) - before
            print(f"round {round_ + 1} of {args.rounds}", file=sys.stderr, flush=True)
    return [level for level, *_ in ways], steps


@contextlib.contextmanager
def step_process(
    version: Path, requests: Sequence[bytes], threads: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the model's steps when told to, with so many threads for an operation."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        for number, request in enumerate(requests):
            (Path(scratch) / f"{number:03}").write_bytes(request)
        program = f"import serving_load; serving_load.run_steps({str(version)!r}, {scratch!r})"
        path = os.pathsep.join(map(str, [here, *sys.path]))
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path, "TF_NUM_INTRAOP_THREADS": threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            ask_steps(process, 1.0)
            yield process
        finally:
            process.kill()
            process.communicate()


def ask_steps(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """Has the process run steps for so long."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def run_steps(version: str, scratch: str) -> None:
    """For each line with a number of seconds, runs steps for so long and prints what each took."""
    import tensorflow as tf
    from served_graph import ServedGraph
    from tensorflow_serving.apis.predict_pb2 import PredictRequest as RealRequest

    tf.get_logger().setLevel("ERROR")
    graph = ServedGraph(Path(version))
    names = graph.inputs("serving_default")
    step = graph.call("serving_default", names, OUTPUTS)
    feeds = []
    for path in sorted(Path(scratch).iterdir()):
        inputs = RealRequest.FromString(path.read_bytes()).inputs
        feeds.append([tf.make_ndarray(inputs[name]) for name in names])
    for line in sys.stdin:
        took: list[float] = []
        before, end = time.process_time(), time.perf_counter() + float(line)
        while (began := time.perf_counter()) < end:
            step(*feeds[len(took) % LISTS])
            took.append(time.perf_counter() - began)
        print(json.dumps({"took": took, "worked": time.process_time() - before}), flush=True)


# --- the table ---


def table(levels: Sequence[Level], steps: Level, args: argparse.Namespace) -> str:
    """Markdown."""
    first = levels[0]
    lines = [
        "| callers | p50, ms | p99, ms | p99 / p50 | p50 / served step | answers/s | "
        f"/ {first.name} caller | processor time / served step's | errors |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for level in levels:
        known = level.worked > 0 and bool(steps.took)
        cells = [
            level.name,
            f"{level.ms(50):.1f}",
            f"{level.ms(99):.1f}",
            f"{level.ms(99) / level.ms(50):.2f}",
            f"{level.ms(50) / steps.ms(50):.2f}" if steps.took else "",
            f"{level.throughput:.1f}",
            f"{level.throughput / first.throughput:.2f}",
            f"{level.work_ms / steps.work_ms:.2f}" if known else "",
            ", ".join(f"{code} {n}" for code, n in sorted(level.errors.items())) or "0",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    said = [
        f"Lists of {args.candidates} candidates with {args.history} entries of history, one list a "
        f"request, {args.seconds:g} s a level in {args.rounds} turns."
    ]
    if steps.took:
        said.append(
            f"The served step in process: p50 {steps.ms(50):.1f} ms, p99 {steps.ms(99):.1f} ms, "
            f"processor time {steps.work_ms:.1f} ms."
        )
    return "\n".join([*lines, "", *said, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--address", help="Of a server that is up; else one is started.")
    parser.add_argument("--model", type=Path, help="Folder of versions to serve.")
    parser.add_argument("--name", default="piano", help="The model's name on the server.")
    parser.add_argument("--seconds", type=float, default=60, help="For each level.")
    parser.add_argument("--rounds", type=int, default=6, help="Turns of each level.")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument(
        "--batching-beside", action="store_true", help="A second server, with --batching."
    )
    parser.add_argument("--output", type=Path, help="File for the table.")
    parser.add_argument("serve", nargs="*", help="Options of `piano serve`, after --.")
    args = parser.parse_args()
    if args.address and (args.serve or args.batching_beside):
        given = args.serve or ["--batching-beside"]
        parser.error(f"{given}: options of a server that is up already")

    with contextlib.ExitStack() as stack:
        versions, step = args.model, None
        servers = {"": (args.address, None)}
        if args.address is None:
            if versions is None:
                versions = trained(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            servers = {"": stack.enter_context(served(versions, args.serve))}
        if args.batching_beside:
            second = served(versions, [*args.serve, "--batching"])
            servers[", batched"] = stack.enter_context(second)
        columns = columns_of(servers[""][0], args.name)
        lists = search_lists(columns, args.candidates, args.history)
        requests = encoded(lists, columns, args.name)
        if versions is not None:
            said = itertools.chain.from_iterable(one.split("=", 1) for one in args.serve)
            threads = dict(itertools.pairwise(said)).get(THREADS, "1")
            step = stack.enter_context(step_process(newest(versions), requests, threads))
        levels, steps = asyncio.run(take_turns(servers, lists, requests, step, args))
    text = table(levels, steps, args)
    print(text)
    if args.output is not None:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
