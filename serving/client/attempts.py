"""One call with its deadline, retries and a hedge, without doing any input or output itself.

What is to be done next is decided here, in generators, once for every kind of client. A generator
yields `Start` to have an attempt begin, `Wait` to be told what ended and `Join` to wait for another
call; whoever drives it does so: threads in `threads.py`, an event loop in `aio.py`, a clock of its
own in the tests.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc

T = TypeVar("T")

# Of a status that says that nothing was computed, or that it was given up half-way. A Predict has
# no effect but its answer, so that asking twice is safe; asking again for what a server refused
# brings the same, and asking again a server that is out of resources brings it down.
RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})


@dataclasses.dataclass(frozen=True)
class Retries:
    """When a call is attempted again.

    Attributes:
      attempts: Attempts of a call at most, hedges included; 1 never repeats one.
      backoff_s: Seconds before the second attempt at most; twice as many before each further one.
        The pause is drawn evenly from nothing to that, so that callers do not come back together.
      backoff_max_s: The longest that it grows to.
      hedge_after_s: Seconds after which an attempt without an answer gets a second one beside it,
        whichever answers first; None never hedges.
      budget: Further attempts that a client may have saved up. Each call saves a tenth of one, so
        that a server in trouble gets a tenth more calls, and not several times as many.

    Raises:
      ValueError: A number is out of range.
    """

    attempts: int = 3
    backoff_s: float = 0.02
    backoff_max_s: float = 0.5
    hedge_after_s: float | None = None
    budget: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}, expected 1 or more")
        for name in ("backoff_s", "backoff_max_s", "hedge_after_s", "budget"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")


_CALLS_FOR_AN_ATTEMPT = 10


class RetryBudget:
    """Counts the further attempts that may be made; shared by all calls of a client.

    Args:
      most: What can be saved up, and what there is at first.
    """

    def __init__(self, most: float) -> None:
        self._most = self._left = most * _CALLS_FOR_AN_ATTEMPT  # in calls
        self._lock = threading.Lock()

    def save(self) -> None:
        """Adds what a call saves."""
        with self._lock:
            self._left = min(self._most, self._left + 1)

    def take(self) -> bool:
        """Takes one attempt, if there is a whole one left."""
        with self._lock:
            if self._left < _CALLS_FOR_AN_ATTEMPT:
                return False
            self._left -= _CALLS_FOR_AN_ATTEMPT
            return True


@dataclasses.dataclass(frozen=True)
class Start:
    """Begin an attempt and go on at once.

    Attributes:
      number: Of the attempt, unlike that of any other that is running.
      method: A key of `serving.client.messages.METHODS`.
      request: Its message.
      timeout_s: Seconds that it may take.
      wait_for_ready: Whether a server that cannot be reached is waited for.
    """

    number: int
    method: str
    request: Any
    timeout_s: float
    wait_for_ready: bool


@dataclasses.dataclass(frozen=True)
class Wait:
    """Wait for an attempt to end; answered with its `Ended`, or with None when the time is up.

    Attributes:
      timeout_s: Seconds to wait at most.
    """

    timeout_s: float


@dataclasses.dataclass(frozen=True)
class Join:
    """Wait for what another call of the client is doing; answered with None.

    Attributes:
      done: Has a result once that is over.
      timeout_s: Seconds to wait at most.
    """

    done: Future[Any]
    timeout_s: float


@dataclasses.dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
      number: Which.
      response: What it brought, if the status is OK.
      code: Its status.
      details: The status in words.
    """

    number: int
    response: Any = None
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""


Steps = Generator[Start | Wait | Join, Ended | None, T]


class CallError(Exception):
    """A call that brought nothing, by the status of its last attempt."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class Caller:
    """Makes calls for one client.

    Args:
      retries: When a call is attempted again.
      clock: Seconds on a clock that never goes back.
      draw: A number between 0 and 1, evenly.
    """

    def __init__(
        self,
        retries: Retries,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._retries = retries
        self._draw = draw
        self._budget = RetryBudget(retries.budget)
        # Of attempts: a client's threads share it, and drawing from it is one step of theirs.
        self._numbers = itertools.count()

    def call(
        self, method: str, request: Any, deadline: float, *, wait_for_ready: bool = False
    ) -> Steps[Any]:
        """The first good answer that any attempt brings before the deadline.

        Args:
          method: A key of `serving.client.messages.METHODS`.
          request: Its message.
          deadline: The moment, on the clock, after which no answer is of use.
          wait_for_ready: Whether a server that cannot be reached is waited for.

        Raises:
          CallError: There was none.
        """
        self._budget.save()
        hedge_after_s = self._retries.hedge_after_s
        running: set[int] = set()
        attempts = 0
        start_at: float | None = self.clock()
        hedge_at: float | None = None
        failed = ""
        while True:
            now = self.clock()
            if now >= deadline:
                raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, f"the time is up{failed}")
            hedges = hedge_at is not None and now >= hedge_at
            if hedges:
                hedge_at = None
            # A retry that is still to come has its attempt already; a hedge is that one, sooner.
            if (start_at is not None and (hedges or now >= start_at)) or (
                hedges and attempts < self._retries.attempts and self._budget.take()
            ):
                start_at = None
                number = next(self._numbers)
                running.add(number)
                attempts += 1
                if hedge_after_s is not None and attempts < self._retries.attempts:
                    hedge_at = now + hedge_after_s
                yield Start(number, method, request, deadline - now, wait_for_ready)
                continue
            wake_at = min(at for at in (start_at, hedge_at, deadline) if at is not None)
            ended = yield Wait(wake_at - now)
            # An attempt of an earlier call, overtaken by its hedge, may end only now.
            if ended is None or ended.number not in running:
                continue
            if ended.code is grpc.StatusCode.OK:
                return ended.response
            running.remove(ended.number)
            failed = f", after {ended.code.name}: {ended.details}"
            if ended.code in RETRIED and start_at is None and attempts < self._retries.attempts:
                again = self.clock() + self._pause_s(attempts)
                if again < deadline and self._budget.take():
                    start_at = again
            if running:
                continue
            if start_at is None:
                raise CallError(ended.code, ended.details)
            hedge_at = None  # there is nothing to hedge until the pause is over

    def pause(self, until: float) -> Steps[None]:
        """Does nothing until a moment on the clock."""
        while (left_s := until - self.clock()) > 0:
            yield Wait(left_s)

    def _pause_s(self, attempts: int) -> float:
        most = self._retries.backoff_s * 2 ** (attempts - 1)
        return min(most, self._retries.backoff_max_s) * self._draw()
