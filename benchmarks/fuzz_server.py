"""Malformed requests by the ten thousand, over gRPC and, with `--rest`, over HTTP.

    .venv/bin/python -m benchmarks.fuzz_server --model-dir FOLDER --requests 100000
    .venv/bin/python -m benchmarks.fuzz_server --model-dir FOLDER --requests 100000 --rest

Starts `piano serve` on a pushed model and sends it good requests, good ones that were damaged, and
noise, from several threads. The server must answer each in time with a status that names the fault,
answer the good ones as it did at first, keep its memory, and stop when told to. It keeps its memory
if it has at the end at most a quarter more than after half of the requests.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.fuzz_grpc import PATIENCE_S, GrpcFuzzer
from benchmarks.fuzz_rest import RestFuzzer

# Resident memory at the end, against that after half of the requests: 1.10 at most of servers that
# kept it, so that what the allocator holds makes no fault, and a leak of some KiB a request does.
_MOST_GROWTH = 1.25


@dataclasses.dataclass
class Outcome:
    """What came of the requests.

    Attributes:
      statuses: How many answers there were of each status.
      faults: What should not have been.
    """

    statuses: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: list[str] = dataclasses.field(default_factory=list)


def fuzz(
    fuzzer: type[GrpcFuzzer] | type[RestFuzzer],
    address: str,
    requests: int,
    threads: int,
    seed: int,
) -> Outcome:
    """Sends requests from several threads at once.

    Args:
      fuzzer: What makes and judges them.
      address: Of the server, for that.
      requests: How many.
      threads: At a time.
      seed: Of what is sent.
    """
    outcomes = [Outcome() for _ in range(threads)]

    def work(number: int) -> None:
        outcome = outcomes[number]
        try:
            with contextlib.closing(fuzzer(address, 1000 * seed + number)) as one:
                for _ in range(number, requests, threads):
                    status, fault = one.once()
                    outcome.statuses[status] += 1
                    outcome.faults += [fault] if fault else []
        except Exception as error:
            outcome.faults.append(f"{type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = Outcome()
    for outcome in outcomes:
        total.statuses += outcome.statuses
        total.faults += outcome.faults
    return total


def memory_fault(megabytes: Sequence[float]) -> str | None:
    """What is to be said against the memory of a server, if anything.

    Args:
      megabytes: Resident memory after each of two equal rounds or more.
    """
    half, end = megabytes[len(megabytes) // 2 - 1], megabytes[-1]
    if end <= _MOST_GROWTH * half:
        return None
    return (
        f"the server has {end:.0f} MiB, and had {half:.0f} after half of the requests, expected "
        f"at most {_MOST_GROWTH} times as much"
    )


def main() -> int:
    """Runs the fuzzer against a server of its own; returns how many things went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", type=Path, required=True, help="Folder of pushed versions.")
    parser.add_argument("--rest", action="store_true", help="Over HTTP.")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("serve", nargs="*", help="Options of `piano serve`, after --.")
    options = parser.parse_args()
    command = "from piano_tf.cli import main; main()"
    server = subprocess.Popen(
        [
            *(sys.executable, "-c", command, "serve", "--port", "0", "--rest-port", "0"),
            *("--model-dir", str(options.model_dir), *options.serve),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    grpc_address, rest_address = (server.stdout.readline().split()[-1] for _ in range(2))
    fuzzer, address = (
        (RestFuzzer, rest_address.removeprefix("http://"))
        if options.rest
        else (GrpcFuzzer, grpc_address)
    )
    process = psutil.Process(server.pid)
    rounds = 10
    total = Outcome()
    megabytes: list[float] = []
    began = time.perf_counter()
    for number in range(rounds):
        share = options.requests // rounds
        outcome = fuzz(fuzzer, address, share, options.threads, rounds * options.seed + number)
        total.statuses += outcome.statuses
        total.faults += outcome.faults
        megabytes.append(process.memory_info().rss / 2**20)
        print(
            f"{(number + 1) * share:>7} requests, {time.perf_counter() - began:6.0f} s, "
            f"{megabytes[-1]:6.0f} MiB, "
            f"{process.num_threads()} threads, {len(total.faults)} faults",
            flush=True,
        )
    grown = memory_fault(megabytes)
    total.faults += [grown] if grown else []
    server.send_signal(signal.SIGTERM)
    code = server.wait(timeout=PATIENCE_S)
    if code:
        total.faults.append(f"the server ended with {code}")
    for status, count in total.statuses.most_common():
        print(f"{status}: {count}")
    for fault in total.faults[:20]:
        print(f"fault: {fault}")
    return len(total.faults)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
