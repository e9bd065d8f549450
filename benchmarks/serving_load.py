"""What a served model answers under load, as ratios to its step in process and to one caller.

    .venv/bin/python benchmarks/serving_load.py --seconds 60 --batching-beside
    .venv/bin/python benchmarks/serving_load.py --address 127.0.0.1:8500
    .venv/bin/python benchmarks/serving_load.py --model trained -- --some-option-of-piano-serve

Without `--address` it starts `piano serve`, with the options after `--`, on the folder of versions
given by `--model`, or else on a model that it trains first: PIANO with two blocks of width 64, one
epoch on 2,000 simulated lists, whose answers are of no worth and whose work is that of any such
model. The server is a process of its own.

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
import re
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

from serving.client.aio import AsyncRerankClient
from serving.client.connection import channel_to
from serving.client.messages import (
    METHODS,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    SignatureDefMap,
)
from serving.client.model_inputs import Column, pad_batch
from serving.client.search_list import CONTRACT, SearchList
from serving.client.tensors import DTYPES, write_tensor

PIANO = (sys.executable, "-c", "from piano_tf.cli import main; main()")
CONFIG = {"model": {"width": 64, "blocks": 2}, "training": {"epochs": 1}}
LISTS = 16
OUTPUTS = ("order", "score", "click", "conversion", "list_click", "list_conversion")
TIMEOUT_S = 60.0
THREADS = "--intra-op-threads"  # of `piano serve`


# --- a model and its server ---


def trained(folder: Path) -> Path:
    """A folder of versions with one model in it, trained as quickly as can be."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for command in (
        f"logs simulated --lists 2000 --output {folder}/logs",
        f"train {folder}/logs --output {folder}/versions/1 --config {folder}/config.json",
    ):
        subprocess.run([*PIANO, *command.split()], check=True, stdout=subprocess.DEVNULL)
    return folder / "versions"


@contextlib.contextmanager
def served(versions: Path, arguments: Sequence[str]) -> Iterator[tuple[str, psutil.Process]]:
    """`piano serve` in a process of its own; yields its address, and it."""
    command = [*PIANO, "serve", "--model-dir", str(versions), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if not said:
            sys.exit("the server did not start")
        address = next(word for word in said if re.fullmatch(r".+:\d+", word))
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate()


# --- what is asked ---


def columns_of(address: str, model: str) -> dict[str, Column]:
    """The inputs of the model on a server."""
    path, _ = METHODS["GetModelMetadata"]
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    with channel_to(grpc, address, None) as channel:
        response = GetModelMetadataResponse.FromString(
            channel.unary_unary(path)(
                request.SerializeToString(), timeout=TIMEOUT_S, wait_for_ready=True
            )
        )
    signatures = SignatureDefMap.FromString(response.metadata["signature_def"].value)
    return {
        name: Column(name, DTYPES[info.dtype], len(info.tensor_shape.dim))
        for name, info in signatures.signature_def["serving_default"].inputs.items()
    }


def search_lists(
    columns: dict[str, Column], candidates: int, history: int, seed: int = 0
) -> list[SearchList]:
    """Made-up lists with every column that the model takes."""
    rng = np.random.default_rng(seed)

    def values(column: Column, count: int) -> Any:
        if column.name == "history_action":
            return [("click", "conversion")[n % 2] for n in range(count)]
        if column.dtype.kind == "O":
            return [f"{column.name.split('_')[-1]}-{n}" for n in rng.integers(0, 3000, count)]
        if column.dtype.kind == "f":
            return rng.random(count).round(3).tolist()
        return rng.integers(0, 10**9, count).tolist()

    made = []
    for number in range(LISTS):
        row: dict[str, Any] = {}
        for column in columns.values():
            count = candidates if column.along == "item_id" else history
            row[column.name] = values(column, count) if column.rank == 2 else values(column, 1)[0]
        row = {"user_id": "ada", "query": "soul", **row, "list_id": f"list-{number}"}
        own = {name: row.pop(name) for name in CONTRACT if name in row}
        made.append(SearchList(**own, features=row))
    return made


def encoded(lists: Sequence[SearchList], columns: dict[str, Column], model: str) -> list[bytes]:
    """Each list as a request of its own."""
    requests = []
    for search_list in lists:
        request = PredictRequest(output_filter=OUTPUTS)
        request.model_spec.name = model
        for name, array in pad_batch([search_list], columns).items():
            write_tensor(array, request.inputs[name])
        requests.append(request.SerializeToString())
    return requests


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


def newest(versions: Path) -> Path:
    """The folder of the version that is served."""
    numbered = [child for child in versions.iterdir() if child.name.isdecimal() and child.is_dir()]
    return max(numbered, key=lambda child: int(child.name))


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
    args, serve_options = parser.parse_known_args()
    serve_options = serve_options[1:] if serve_options[:1] == ["--"] else serve_options
    if args.address and (serve_options or args.batching_beside):
        given = serve_options or ["--batching-beside"]
        parser.error(f"{given}: options of a server that is up already")

    with contextlib.ExitStack() as stack:
        versions, step = args.model, None
        servers = {"": (args.address, None)}
        if args.address is None:
            if versions is None:
                versions = trained(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            servers = {"": stack.enter_context(served(versions, serve_options))}
        if args.batching_beside:
            second = served(versions, [*serve_options, "--batching"])
            servers[", batched"] = stack.enter_context(second)
        columns = columns_of(servers[""][0], args.name)
        lists = search_lists(columns, args.candidates, args.history)
        requests = encoded(lists, columns, args.name)
        if versions is not None:
            threads = dict(itertools.pairwise(serve_options)).get(THREADS, "1")
            step = stack.enter_context(step_process(newest(versions), requests, threads))
        levels, steps = asyncio.run(take_turns(servers, lists, requests, step, args))
    text = table(levels, steps, args)
    print(text)
    if args.output is not None:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
