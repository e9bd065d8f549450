"""How fast a simulated log is written, and in how much memory, as it grows.

    .venv/bin/python benchmarks/simulation.py 10000 100000 1000000

Prints, for each number of lists, lists per second (also as a ratio to the first) and the peak
memory of the process that wrote them. Days and listeners are those of the default world.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from piano_tf.data.logs import write_log
from piano_tf.data.splits import ByShare
from piano_tf.simulation import SimulationConfig, simulate


def write(lists: int) -> tuple[float, float]:
    """Seconds and MiB that writing a log takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_log(simulate(SimulationConfig(lists=lists)), Path(folder) / "log", ByShare())
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(sizes: list[int]) -> None:
    first = None
    print(f"{'lists':>10} {'seconds':>8} {'lists/s':>8} {'ratio':>6} {'peak MiB':>9}")
    for size in sizes:
        # A process of its own, whose peak is this log's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak = pool.apply(write, (size,))
        speed = size / seconds
        first = first or speed
        print(f"{size:>10,} {seconds:>8.1f} {speed:>8,.0f} {speed / first:>6.2f} {peak:>9,.0f}")


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [10_000, 100_000, 1_000_000])
