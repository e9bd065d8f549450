"""Requests run one by one, as many at a time as there are processors."""

from __future__ import annotations

import os
import threading
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

    def close(self, seconds: float) -> None:
        """Refuses what waits as UNAVAILABLE, and gives so long to what runs."""
        ...


class OneByOne:
    """Runs each request by itself; explanations one at a time, beside all others.

    More runs at a time than processors would only make each of them slower, so that the rest waits
    here, where a caller's deadline is looked at.

    Args:
      metrics: For what a run takes.
      runs: How many at a time; by default one per processor.
    """

    def __init__(self, metrics: Metrics, runs: int | None = None) -> None:
        self._metrics = metrics
        self._free = threading.Semaphore(runs or os.cpu_count() or 1)
        self._closed = False
        self._free_to_explain = threading.Semaphore()
        self.explanations = Admission(_MOST_EXPLANATIONS, "explanations", "explanations")

    def run(self, plan: Plan, arrays: Arrays, call: Call) -> Arrays:
        """See `Runner`."""
        if plan.explains:
            with self.explanations():
                return self._run(self._free_to_explain, plan, arrays, call)
        return self._run(self._free, plan, arrays, call)

    def _run(self, places: threading.Semaphore, plan: Plan, arrays: Arrays, call: Call) -> Arrays:
        with self._metrics.stage("wait"):
            free = places.acquire(timeout=call.seconds_left())
        if not free:
            raise late()
        try:
            if self._closed:
                raise stopping()
            call.require_waiting()
            with self._metrics.run(size(arrays)[0] if plan.is_about_lists else None):
                return plan.run(arrays)
        finally:
            places.release()

    def close(self, seconds: float = 0.0) -> None:
        """See `Runner`; what runs is left to run."""
        self._closed = True
        # Each that waits is let through, to find out, and lets the next one through.
        self._free.release()
        self._free_to_explain.release()
