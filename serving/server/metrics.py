"""What the server counts and times, as Prometheus reads it.

Names that begin with a colon are the real server's; `piano_serving_...` are ours.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter as Counts
from collections.abc import Iterator
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# The real server's bounds, in microseconds.
_LATENCY = [10 * 1.8**power for power in range(33)]
_LENGTHS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
# Between 5 and 50 ms, where a run lies, no bound is above one and a half times the last.
_SECONDS = [
    *(0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05),
    *(0.07, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0),
]
UNKNOWN_MODEL = "unknown"


class _RequestCount(Collector):
    """The real server's counter, whose name lacks the `_total` that the library gives to all."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counts[tuple[str, str]] = Counts()

    def add(self, model_name: str, status: str) -> None:
        with self._lock:
            self._counts[model_name, status] += 1

    def collect(self) -> Iterator[Metric]:
        name = ":tensorflow:serving:request_count"
        metric = Metric(name, "Requests by model and status.", "unknown")
        with self._lock:
            counts = dict(self._counts)
        for (model_name, status), count in sorted(counts.items()):
            metric.add_sample(name, {"model_name": model_name, "status": status}, count)
        yield metric


class Metrics:
    """The figures of one server.

    Args:
      model_name: Of the model that it serves; any other name counts as `unknown`, for a stranger
        may not fill the memory with names.
    """

    def __init__(self, model_name: str) -> None:
        disable_created_metrics()
        self._model_name = model_name
        self._registry = CollectorRegistry()
        self._requests = _RequestCount()
        self._registry.register(self._requests)
        self._latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds of answered requests.",
            ["model_name", "API", "entrypoint"],
            buckets=_LATENCY,
            registry=self._registry,
        )
        self._runtime = Histogram(
            ":tensorflow:serving:runtime_latency",
            "Microseconds of one run of the graph.",
            ["model_name", "API", "runtime"],
            buckets=_LATENCY,
            registry=self._registry,
        )
        self._stages = Histogram(
            "piano_serving_stage_seconds",
            "Seconds of a request by stage: decode, wait, run, encode.",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "piano_serving_batch_lists",
            "Lists in one run of the graph.",
            buckets=_LENGTHS,
            registry=self._registry,
        )
        self._lengths = Histogram(
            "piano_serving_list_length",
            "Candidates of a request's longest list.",
            buckets=_LENGTHS,
            registry=self._registry,
        )
        self._beyond = Counter(
            "piano_serving_beyond_limit",
            "Requests that were refused because they would pass a limit.",
            ["limit"],
            registry=self._registry,
        )
        self._in_progress = Gauge(
            "piano_serving_requests_in_progress",
            "Requests that are waiting or run.",
            registry=self._registry,
        )
        self._version = Gauge(
            "piano_serving_model_version",
            "The version that is served; -1 for none.",
            registry=self._registry,
        )
        self._loads = Counter(
            "piano_serving_version_loads",
            "Loads of a version, anew too, that were done or refused.",
            ["result"],
            registry=self._registry,
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times one stage of a request: `decode`, `wait`, `run` or `encode`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent(name, time.perf_counter() - began)

    def spent(self, stage: str, seconds: float) -> None:
        """Notes what one stage of a request took."""
        self._stages.labels(stage).observe(seconds)

    @contextlib.contextmanager
    def run(self, lists: int | None) -> Iterator[None]:
        """Times one run of the graph.

        Args:
          lists: How many lists it is about, if it is about lists.
        """
        if lists is not None:
            self._batch.observe(lists)
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self.spent("run", seconds)
            self._runtime.labels(self._model_name, "Predict", "TF1").observe(1e6 * seconds)

    def request(self, model_name: str, status: str, entry: str, seconds: float) -> None:
        """Counts an answer.

        Args:
          model_name: As the request has it.
          status: Name of the status code.
          entry: `GRPC` or `REST`.
          seconds: From the call to the answer.
        """
        known = model_name if model_name == self._model_name else UNKNOWN_MODEL
        self._requests.add(known, status)
        if status == "OK":
            api = "Predict" if entry == "GRPC" else "predict"
            self._latency.labels(known, api, entry).observe(1e6 * seconds)

    def beyond(self, limit: str) -> None:
        """Counts a request that was refused for a limit, by its name."""
        self._beyond.labels(limit).inc()

    def list_length(self, candidates: int) -> None:
        """Notes how long the lists of a request are."""
        self._lengths.observe(candidates)

    def in_progress(self) -> contextlib.AbstractContextManager[object]:
        """Counts a request for as long as it is in progress."""
        return self._in_progress.track_inprogress()

    def load(self, result: str) -> None:
        """Counts a version that was `loaded`, or was `refused`."""
        self._loads.labels(result).inc()

    def serves(self, version: int | None) -> None:
        """Notes which version is served; None for none."""
        self._version.set(-1 if version is None else version)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
