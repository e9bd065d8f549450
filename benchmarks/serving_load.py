"""What a served model answers under load, as ratios to its step in process and to one caller.

    .venv/bin/python benchmarks/serving_load.py --seconds 60 --output docs/serving_load.md
    .venv/bin/python benchmarks/serving_load.py --address 127.0.0.1:8500
    .venv/bin/python benchmarks/serving_load.py --model trained -- --some-option-of-piano-serve

Without `--address` it starts `piano serve`, with the options after `--`, on the folder of versions
given by `--model`, or else on a model that it trains first: PIANO with two blocks of width 64, one
epoch on 2,000 simulated lists, whose answers are of no worth and whose work is that of any such
model. The server is a process of its own.

Callers ask in a closed loop: each sends its next request when it has the answer to the last. The
requests are 16 lists of 100 candidates with 50 entries of history, made up by the model's inputs,
and encoded once before, so that the load costs little beside the server on the same machine; one
more row is asked through `RerankClient`, whose checks and encoding are part of what it measures.
The model step is the same requests, as arrays, through the same graph in a session of a process of
its own, before and after the load; it is known only where the model's folder is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving.aio import AsyncRerankClient
from serving.batch import Column, pad_batch
from serving.connection import options
from serving.messages import (
    METHODS,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    SignatureDefMap,
)
from serving.search_list import CONTRACT, SearchList
from serving.tensors import DTYPES, write_tensor

PIANO = (sys.executable, "-c", "from piano_tf.cli import main; main()")
CONFIG = {"model": {"width": 64, "blocks": 2}, "training": {"epochs": 1}}
LISTS = 16
OUTPUTS = ("order", "score", "click", "conversion", "list_click", "list_conversion")
TIMEOUT_S = 60.0
WARM_UP = 40  # requests before a level is measured
STEPS = 300


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
def served(versions: Path, arguments: Sequence[str]) -> Iterator[str]:
    """`piano serve` in a process of its own; yields its address."""
    command = [*PIANO, "serve", "--model-dir", str(versions), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if not said:
            sys.exit("the server did not start")
        yield next(word for word in said if word.rpartition(":")[2].isdecimal() and ":" in word)
    finally:
        process.terminate()
        process.communicate()


# --- what is asked ---


def columns_of(address: str, model: str) -> dict[str, Column]:
    """The inputs of the model on a server."""
    path, _ = METHODS["GetModelMetadata"]
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    with grpc.insecure_channel(address, options=options()) as channel:
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


async def under_load(ask: Ask, callers: int, seconds: float) -> tuple[np.ndarray, float, Counter]:
    """Callers in a closed loop.

    Args:
      ask: Sends a request by number and says its status.
      callers: How many.
      seconds: How long.

    Returns:
      Seconds that each answer took, answers a second, and how many had which other status.
    """
    took: list[float] = []
    errors: Counter = Counter()
    numbers = iter(range(10**12))

    async def caller(until: Callable[[], bool]) -> None:
        while not until():
            began = time.perf_counter()
            status = await ask(next(numbers))
            if status == "OK":
                took.append(time.perf_counter() - began)
            else:
                errors[status] += 1

    await asyncio.gather(*(caller(lambda: len(took) >= WARM_UP) for _ in range(callers)))
    took.clear()
    began = time.perf_counter()
    end = began + seconds
    await asyncio.gather(*(caller(lambda: time.perf_counter() >= end) for _ in range(callers)))
    lasted = time.perf_counter() - began
    return np.array(took), len(took) / lasted, errors


async def levels(
    address: str, model: str, lists: Sequence[SearchList], requests: Sequence[bytes], args: Any
) -> list[dict[str, Any]]:
    """A row for each number of callers, and one through the client."""
    rows = []
    async with grpc.aio.insecure_channel(address, options=options()) as channel:
        predict = channel.unary_unary(METHODS["Predict"][0])

        async def raw(number: int) -> str:
            try:
                await predict(requests[number % LISTS], timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        for callers in args.concurrency:
            rows.append(row(str(callers), *await under_load(raw, callers, args.seconds)))
    async with AsyncRerankClient(address, model, timeout_s=TIMEOUT_S) as client:

        async def typed(number: int) -> str:
            reason = (await client.rank(lists[number % LISTS])).reason
            return reason.code if reason else "OK"

        rows.append(row("1, by client", *await under_load(typed, 1, args.seconds)))
    return rows


def row(name: str, took: np.ndarray, throughput: float, errors: Counter) -> dict[str, Any]:
    p50, p99 = np.percentile(1000 * took, [50, 99]) if len(took) else (np.nan, np.nan)
    found = {"callers": name, "p50": p50, "p99": p99, "throughput": throughput, "errors": errors}
    print(found, file=sys.stderr, flush=True)
    return found


def model_step(version: Path, requests: Sequence[bytes]) -> np.ndarray:
    """Seconds of each of `STEPS` steps, in a process of its own."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        for number, request in enumerate(requests):
            (Path(scratch) / str(number)).write_bytes(request)
        program = f"import serving_load; serving_load.run_steps({str(version)!r}, {scratch!r})"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [here, *sys.path]))},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def run_steps(version: str, scratch: str) -> None:
    """Prints the seconds of each step."""
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest as RealRequest

    graph = tf.Graph()
    with tf.compat.v1.Session(graph=graph) as session, graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], version)
        signature = loaded.signature_def["serving_default"]
        fetches = [signature.outputs[name].name for name in OUTPUTS]
        feeds = []
        for path in sorted(Path(scratch).iterdir()):
            inputs = RealRequest.FromString(path.read_bytes()).inputs
            feeds.append(
                {
                    signature.inputs[name].name: tf.make_ndarray(inputs[name])
                    for name in signature.inputs
                }
            )
        step = session.make_callable(fetches, [*feeds[0]])
        took = []
        for number in range(WARM_UP + STEPS):
            values = [*feeds[number % LISTS].values()]
            began = time.perf_counter()
            step(*values)
            took.append(time.perf_counter() - began)
    print(json.dumps(took[WARM_UP:]))


# --- the table ---


def table(rows: Sequence[dict[str, Any]], step_ms: float | None, said: str) -> str:
    """Markdown."""
    first = rows[0]
    lines = [
        "| callers | p50, ms | p99, ms | p99 / p50 | p50 / model step | answers/s | "
        f"answers/s against {first['callers']} | errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        errors = ", ".join(f"{code} {count}" for code, count in sorted(one["errors"].items()))
        steps = "" if step_ms is None else f"{one['p50'] / step_ms:.2f}"
        lines.append(
            f"| {one['callers']} | {one['p50']:.1f} | {one['p99']:.1f} | "
            f"{one['p99'] / one['p50']:.2f} | {steps} | {one['throughput']:.1f} | "
            f"{one['throughput'] / first['throughput']:.2f} | {errors or '0'} |"
        )
    notes = [said]
    if step_ms is not None:
        over = first["p50"] / step_ms - 1
        notes.append(
            f"Model step in process: p50 {step_ms:.1f} ms. Server and gRPC add {over:.2f} model "
            f"steps to it for {first['callers']} caller."
        )
    return "\n".join([*lines, "", *notes, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--address", help="Of a server that is up; else one is started.")
    parser.add_argument("--model", type=Path, help="Folder of versions to serve.")
    parser.add_argument("--name", default="piano", help="The model's name on the server.")
    parser.add_argument("--seconds", type=float, default=60, help="For each level.")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--output", type=Path, help="File for the table.")
    args, serve_options = parser.parse_known_args()
    serve_options = serve_options[1:] if serve_options[:1] == ["--"] else serve_options
    if args.address and serve_options:
        parser.error(f"{serve_options}: options of a server that is up already")

    with contextlib.ExitStack() as stack:
        versions = args.model
        if args.address is None:
            if versions is None:
                versions = trained(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            server = contextlib.ExitStack()
            stack.enter_context(server)
            address = server.enter_context(served(versions, serve_options))
        else:
            address, server = args.address, contextlib.ExitStack()
        columns = columns_of(address, args.name)
        lists = search_lists(columns, args.candidates, args.history)
        requests = encoded(lists, columns, args.name)
        steps = []
        newest = (
            None
            if versions is None
            else max(
                (child for child in versions.iterdir() if child.name.isdecimal()),
                key=lambda child: int(child.name),
            )
        )
        if newest is not None:
            steps.append(model_step(newest, requests))
        rows = asyncio.run(levels(address, args.name, lists, requests, args))
        server.close()
        if newest is not None:
            steps.append(model_step(newest, requests))
    step_ms = 1000 * float(np.median(np.concatenate(steps))) if steps else None
    said = (
        f"Lists of {args.candidates} candidates with {args.history} entries of history, "
        f"{args.seconds:g} s a level, one list a request."
    )
    if steps:
        halves = ", ".join(f"{1000 * np.median(half):.1f}" for half in steps)
        said += f" Model step before and after the load: {halves} ms."
    text = table(rows, step_ms, said)
    print(text)
    if args.output is not None:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
