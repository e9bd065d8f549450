"""One call while it is in the server: how long its caller waits, and how many there may be."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from serving.server.errors import Refusal, exhausted

# A deadline beyond is none: gRPC reports that of a call without one as centuries away.
_LONGEST_S = 7 * 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Call:
    """Who waits for an answer.

    Attributes:
      entry: Where the call came in: `GRPC` or `REST`.
      deadline: When its caller stops waiting, on the monotonic clock; None for never.
      is_alive: Whether the caller is still there.
    """

    entry: str
    deadline: float | None = None
    is_alive: Callable[[], bool] = lambda: True

    @classmethod
    def within(
        cls, entry: str, seconds: float | None, is_alive: Callable[[], bool] = lambda: True
    ) -> Call:
        """A call whose caller waits for that long."""
        if seconds is None or seconds > _LONGEST_S:
            return cls(entry, None, is_alive)
        return cls(entry, time.monotonic() + seconds, is_alive)

    def seconds_left(self) -> float | None:
        """How long the caller still waits, at least 0; None for ever."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def require_waiting(self) -> None:
        """Raises a `Refusal` if nobody waits for the answer any more."""
        if self.seconds_left() == 0.0:
            raise late()
        if not self.is_alive():
            raise Refusal(grpc.StatusCode.CANCELLED, "the call was cancelled while it waited")


def late() -> Refusal:
    """The refusal of a call that waited until its deadline; the model was not run for it."""
    return Refusal(
        grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline passed while it waited to be run"
    )


def stopping() -> Refusal:
    """The refusal of a call to a server that is going."""
    return Refusal(grpc.StatusCode.UNAVAILABLE, "the server is being stopped")


class Admission:
    """Lets in so many calls at a time, and none once it is closed.

    Args:
      most: How many.
      of: What they are called where one is refused.
      limit: What the limit is called there.
    """

    def __init__(self, most: int, of: str = "requests", limit: str = "concurrency") -> None:
        self._most = most
        self._of = of
        self._limit = limit
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Holds a place for the call; raises a `Refusal` if there is none."""
        with self._changed:
            if self._closed:
                raise stopping()
            if self._inside >= self._most:
                raise exhausted(
                    self._limit,
                    f"{self._most} {self._of} are in progress, which is the most there may be",
                )
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Lets nobody in any more, and waits so long for those who are inside."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._inside, seconds)
