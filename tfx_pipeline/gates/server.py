"""The real server, `piano serve`, in a process of its own for as long as a gate asks it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

# It ends with the thread that started it, also where that was killed: Linux's PR_SET_PDEATHSIG, 1,
# sends SIGKILL, 9. In the new process, since code between fork and exec may hang beside threads.
_PROGRAM = """\
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
from piano_tf.cli import main
main()
"""
_COMMAND = (sys.executable, "-c", _PROGRAM, "serve", "--port", "0")
_STOP_S = 30.0


class ServerError(Exception):
    """A server that does not come up; the message is its own last word."""


@contextlib.contextmanager
def served(model: Path, startup_s: float) -> Iterator[str]:
    """Serves a model alone; yields the address.

    Args:
      model: Folder of a SavedModel.
      startup_s: What the server may take to load it.

    Raises:
      ServerError: It does not come up.
    """
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch) / "errors", "w+") as errors:
        versions = Path(scratch) / "versions"
        versions.mkdir()
        (versions / "1").symlink_to(model.absolute())
        process = subprocess.Popen(
            [*_COMMAND, "--model-dir", str(versions)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        late = threading.Timer(startup_s, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()  # once the model is loaded
            late.cancel()
            if not said:
                process.wait()
                errors.seek(0)
                words = errors.read().strip().splitlines()
                why = words[-1] if words else f"it was not up within {startup_s:g} s"
                raise ServerError(f"the server did not start: {why.removeprefix('error: ')}")
            yield said[-1]
        finally:
            late.cancel()
            stop(process)


def stop(process: subprocess.Popen[str], within_s: float = _STOP_S) -> None:
    """Ends a process: asks it to, and kills it where it has not ended in time."""
    process.terminate()
    try:
        process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
