"""One process at a time in a pipeline's home."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from piano_tf.errors import PianoError


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Holds a pipeline's home, which the end of the process lets go of too, however it comes.

    Raises:
      PianoError: Another process holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PianoError(
                f"{home}: another run is at work there; expected one at a time"
            ) from error
        yield
