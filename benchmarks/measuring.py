"""What benchmarks share: a process and all that it starts, looked at while it runs, and tables.

Memory is the sum of proportional set sizes, so that pages which processes share count once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import psutil
from matplotlib.figure import Figure

from piano_tf.pages import STYLE, svg

_PAUSE = 0.1


class Usage(NamedTuple):
    """What a tree of processes has used at a moment.

    Attributes:
      moment: Seconds of `time.perf_counter`.
      processor: Seconds that processors have worked for it, those of processes that have ended
        included.
      memory: MiB that it holds.
    """

    moment: float
    processor: float
    memory: float


def usage(root: psutil.Process) -> Usage:
    """Of a process and all that it started; 0 for those that have just ended."""
    processor = memory = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory += process.memory_full_info().pss / 2**20
                processor += sum(process.cpu_times()[:4])  # own, and of children that have ended
    return Usage(time.perf_counter(), processor, memory)


def watched(process: psutil.Popen, pause: float = _PAUSE) -> Iterator[Usage]:
    """What a process uses, every `pause` seconds until it ends."""
    while process.poll() is None:
        yield usage(process)
        time.sleep(pause)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of numbers, the first line its header."""
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def from_nothing(figure: Figure, what: str) -> None:
    """Finishes plots of what grows with something: both axes from 0, with a legend."""
    for axes in figure.axes:
        axes.set_xlabel(what)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")


def write(output: Path, table: str, plot: Callable[[], Figure]) -> None:
    """Writes a table (`.md`) and a plot (`.svg`) of the look that pages have."""
    output.with_suffix(".md").write_text(table + "\n")
    with matplotlib.rc_context(STYLE):
        output.with_suffix(".svg").write_bytes(svg(plot()))
