"""Requests run one by one, in the order in which they came, as many at a time as processors."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from serving.server.call import Admission, Call, late, stopping
from serving.server.merging import size
from serving.server.metrics import Metrics
from serving.server.servable import Arrays, Plan

# Explanations are for people, who can wait, and must not fill the places of those who search.
_MOST_EXPLANATIONS = 8


class Runner(Protocol):
    """Runs a request that has been checked, when its turn comes."""

    def run(self, plan: Plan, arrays: Arrays, call: Call) -> Arrays:
        """Waits for its turn and runs the graph, unless the caller stops waiting first.

        Raises:
          Refusal: Nobody waits any more, or too many do.
          tensorflow.errors.OpError: The model failed on the inputs.
        """
        ...

    def hurry(self) -> None:
        """Has nothing wait any more for others to share a run with."""
        ...

    def close(self, seconds: float) -> None:
        """Refuses what waits as UNAVAILABLE, and gives so long to what runs."""
        ...


class Places:
    """So many places; who waits for one gets it in turn, and nobody who comes later before.

    Args:
      most: How many.
    """

    def __init__(self, most: int) -> None:
        self._changed = threading.Condition()
        self._free = most
        self._waiting: deque[threading.Event] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        with self._changed:
            return len(self._waiting)

    def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for something to become true of who waits; says whether it did in time."""
        with self._changed:
            return self._changed.wait_for(holds, timeout_s)

    def acquire(self, timeout_s: float | None) -> bool:
        """Waits so long for a place, or for ever; says whether there was one."""
        turn = threading.Event()
        with self._changed:
            if self._free:
                self._free -= 1
                return True
            self._waiting.append(turn)
            self._changed.notify_all()
        if turn.wait(timeout_s):
            return True
        with self._changed:
            # The place may have come just when the time was over.
            if turn.is_set():
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        """Hands the place to who has waited longest, if anybody waits."""
        with self._changed:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class OneByOne:
    """Runs each request by itself, in turn; explanations one at a time, beside all others.

    More runs at a time than processors would only make each of them slower, so that the rest waits
    here, where a caller's deadline is looked at.

    Args:
      metrics: For what a run takes.
      runs: How many at a time; by default one per processor.
    """

    def __init__(self, metrics: Metrics, runs: int | None = None) -> None:
        self._metrics = metrics
        self.places = Places(runs or os.cpu_count() or 1)
        self._closed = False
        self._places_to_explain = Places(1)
        self.explanations = Admission(_MOST_EXPLANATIONS, "explanations", "explanations")

    def run(self, plan: Plan, arrays: Arrays, call: Call) -> Arrays:
        """See `Runner`."""
        if plan.signature.explains:
            with self.explanations():
                return self._run(self._places_to_explain, plan, arrays, call)
        return self._run(self.places, plan, arrays, call)

    def _run(self, places: Places, plan: Plan, arrays: Arrays, call: Call) -> Arrays:
        with self._metrics.stage("wait"):
            free = places.acquire(call.seconds_left())
        if not free:
            raise late()
        try:
            if self._closed:
                raise stopping()
            call.require_waiting()
            with self._metrics.run(size(arrays)[0] if plan.signature.is_about_lists else None):
                return plan.run(arrays)
        finally:
            places.release()

    def hurry(self) -> None:
        """See `Runner`; nothing waits for others here."""

    def close(self, seconds: float = 0.0) -> None:
        """See `Runner`; what runs is left to run."""
        self._closed = True
        # Each that waits is let through, to find out, and lets the next one through.
        self.places.release()
        self._places_to_explain.release()
