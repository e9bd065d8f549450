"""What a person sees of a run: a line per stage. Everything else goes to a file."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from absl import logging as absl_logging
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

# A record of this logger is for the person who waits.
NEWS = logging.getLogger("tfx_pipeline.news")

STARTING = "start"  # what comes before the first stage
# The local runner tells where it is in its log alone.
_STAGE = re.compile(r"Component (?P<stage>\S+) is (?P<state>running|finished)\.")
_CACHED = re.compile(r"A cached execution \d+ is used\.")


class Running:
    """A line of what is at work and for how many seconds, on a terminal alone; it goes at the end.

    Args:
      console: Where to show it.
      clock: Gives seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._what = ""
        self._began = 0.0
        self._live: Live | None = None

    def start(self, what: str) -> None:
        """Begins to show something, in the place of what was shown."""
        self.stop()
        self._what, self._began = what, self._clock()
        if not self._console.is_interactive:
            return
        self._live = Live(
            self,
            console=self._console,
            refresh_per_second=1,
            transient=True,
            redirect_stdout=False,  # it is a file's
            redirect_stderr=False,
        )
        self._live.start(refresh=True)
        self._console.show_cursor(True)  # a kill would leave it hidden

    def stop(self) -> float:
        """Ends the line, if there is one; for how many seconds that was at work."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        return self._clock() - self._began

    def __rich__(self) -> Text:
        seconds = self._clock() - self._began
        told = f"  … {self._what:<24}{seconds:5.0f} s"
        return Text(told, no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """Shows on a terminal that something is at work, and for how many seconds."""
    line = Running(Console())
    line.start(what)
    try:
        yield
    finally:
        line.stop()


class StageLines(logging.Handler):
    """Prints a line when a stage ends, with its seconds, and `NEWS` in between.

    Of a stage whose outputs are an earlier run's the line says that in place of the seconds.

    Args:
      console: Where to print.
      clock: Gives seconds.

    Attributes:
      stage: The stage that is running, or None.
      finished: How many have ended.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._running = Running(console, clock)
        self._is_cached = False
        self.stage: str | None = None
        self.finished = 0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.name == NEWS.name:
            self._console.print(f"    {escape(message)}", highlight=False)
        elif record.name == "absl":
            if _CACHED.fullmatch(message):
                self._is_cached = True
            elif (found := _STAGE.search(message)) is not None:
                self._tell(found["stage"], found["state"])

    def start(self) -> None:
        """Shows that a run is at work whose first stage has not begun."""
        self._running.start(STARTING)

    def close(self) -> None:
        """Ends the line of what is at work."""
        self._running.stop()
        super().close()

    def fail(self) -> None:
        """Marks the running stage, if there is one, as failed."""
        if self.stage is not None:
            self._end("[red]✗[/red]")

    def _tell(self, stage: str, state: str) -> None:
        if state == "running":
            self.stage, self._is_cached = stage, False
            self._running.start(stage)
        else:
            self._end("[green]✓[/green]")
            self.finished += 1
            self.stage = None

    def _end(self, mark: str) -> None:
        seconds = self._running.stop()
        told = "  from an earlier run" if self._is_cached else f"{seconds:7.1f} s"
        self._console.print(f"  {mark} {self.stage:<24}{told}", highlight=False)


@contextlib.contextmanager
def quiet(run_log: Path) -> Iterator[StageLines]:
    """Sends all output of this process, TensorFlow's included, to a file; yields the stage lines.

    Args:
      run_log: File to write; its folder is made.
    """
    run_log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal, errors = os.dup(1), os.dup(2)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with _written_by_lines(run_log) as file, os.fdopen(terminal, "w") as person:
        # C++ libraries write to the descriptors themselves, past Python's streams.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        lines = StageLines(Console(file=person, soft_wrap=True))
        root.handlers = [logging.StreamHandler(file), lines]
        root.setLevel(logging.INFO)
        absl_logging.set_verbosity(absl_logging.INFO)
        lines.start()
        try:
            with (
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield lines
        finally:
            lines.close()
            root.handlers, root.level = handlers, level
            person.flush()
            os.dup2(person.fileno(), 1)
            os.dup2(errors, 2)
            os.close(errors)


@contextlib.contextmanager
def _written_by_lines(path: Path) -> Iterator[TextIO]:
    """A file to write; what no longer fits on a full disk is lost, and nothing else for it."""
    file = open(path, "w", buffering=1)  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()
