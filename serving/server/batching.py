"""Requests of several clients in one run of the graph, as TensorFlow Serving batches them.

A batch is run when it is full, or when its oldest request has waited for `timeout_s` and a thread
is free: while all threads are busy, it goes on growing.
"""

from __future__ import annotations

import bisect
import dataclasses
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path

import grpc
import tensorflow as tf

from serving.columns import ITEMS
from serving.server.call import Call, late, stopping
from serving.server.errors import Refusal, ServingError, invalid_argument
from serving.server.merging import CannotSplit, merge, size, split
from serving.server.metrics import Metrics
from serving.server.running import OneByOne
from serving.server.servable import Arrays, Plan
from serving.server.text_protos import read

# A long list beside short ones would make all of them long: that much of a batch may be padding.
_MOST_PADDING = 0.5

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """The real server's `BatchingParameters`; the defaults are ours.

    Attributes:
      most_lists: Lists of one batch.
      timeout_s: How long a request waits for others while a thread is free.
      most_waiting: Batches that may wait, for each signature.
      threads: Batches that are run at a time; half as many as there are processors, since a batch
        keeps more than one busy, and meanwhile the next one fills.
      allowed: Numbers of lists that a batch is filled up to; none means any.
      pad: Whether requests of different widths share a batch.

    Raises:
      ServingError: Two of them contradict each other.
    """

    most_lists: int = 32
    timeout_s: float = 0.0
    most_waiting: int = 10
    threads: int = max(1, (os.cpu_count() or 1) // 2)
    allowed: tuple[int, ...] = ()
    pad: bool = True

    def __post_init__(self) -> None:
        for name in ("most_lists", "most_waiting", "threads"):
            if getattr(self, name) < 1:
                raise ServingError(f"batching: {name} is {getattr(self, name)}, expected 1 or more")
        if self.timeout_s < 0:
            raise ServingError(f"batching: timeout_s is {self.timeout_s}, expected 0 or more")
        if self.allowed and (
            sorted({*self.allowed}) != [*self.allowed]
            or self.allowed[-1] != self.most_lists
            or self.allowed[0] < 1
        ):
            raise ServingError(
                f"batching: the allowed sizes are {list(self.allowed)}, expected increasing "
                f"ones of which the last is the maximum, {self.most_lists}"
            )

    @classmethod
    def read(cls, path: Path) -> BatchingOptions:
        """Reads a file for the real server's `--batching_parameters_file`.

        Raises:
          ServingError: It is no such file, or its values contradict each other.
        """
        message = read(path, "BatchingParameters")

        def value(name: str, default: int) -> int:
            return getattr(message, name).value if message.HasField(name) else default

        try:
            return cls(
                most_lists=value("max_batch_size", 1000),
                timeout_s=value("batch_timeout_micros", 0) / 1e6,
                most_waiting=value("max_enqueued_batches", 10),
                threads=value("num_batch_threads", cls.threads),
                allowed=tuple(message.allowed_batch_sizes),
                pad=message.pad_variable_length_inputs,
            )
        except ServingError as error:
            raise ServingError(f"{path}: {error}") from error

    def rows(self, lists: int) -> int:
        """How many lists a batch of so many is filled up to."""
        return self.allowed[bisect.bisect_left(self.allowed, lists)] if self.allowed else lists


@dataclasses.dataclass(eq=False)
class _Task:
    """A request that waits."""

    plan: Plan
    arrays: Arrays
    call: Call
    lists: int
    width: int
    since: float
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    taken: bool = False
    outputs: Arrays | None = None
    error: Exception | None = None

    def end(self, outputs: Arrays | None = None, error: Exception | None = None) -> None:
        self.outputs, self.error = outputs, error
        self.done.set()


class Clock:
    """Time, as the threads that wait for a batch see it."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, changed: threading.Condition, seconds: float | None) -> None:
        """Waits for a change of what waits, at most so long; None for ever."""
        changed.wait(seconds)


class Batches:
    """Runs requests about lists together, and all others one by one.

    Args:
      options: Of how they are put together.
      metrics: For what waiting and a run take.
      most_pairs: The most that `Limits.pairs` allows, to which a batch is held too.
      clock: What `timeout_s` is measured by, where it is not time itself.
    """

    def __init__(
        self,
        options: BatchingOptions,
        metrics: Metrics,
        most_pairs: int,
        clock: Clock | None = None,
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._most_pairs = most_pairs
        self._clock = clock or Clock()
        self._one_by_one = OneByOne(metrics)
        self._changed = threading.Condition()
        # By plan and, without padding, by width: what may share a batch.
        self._waiting: dict[object, deque[_Task]] = {}
        # Whose outputs have been found not to be one value per list.
        self._alone: weakref.WeakSet[Plan] = weakref.WeakSet()
        self._hurries = False
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(options.threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, plan: Plan, arrays: Arrays, call: Call) -> Arrays:
        """See `Runner`."""
        if not plan.signature.is_about_lists or plan.signature.explains or plan in self._alone:
            return self._one_by_one.run(plan, arrays, call)
        lists, items, history = size(arrays)
        if lists > self._options.most_lists:
            raise invalid_argument(
                f"input {ITEMS} has {lists} lists, expected at most {self._options.most_lists}, "
                "the size of a batch"
            )
        task = _Task(plan, arrays, call, lists, items + history, self._clock.now())
        key = plan if self._options.pad else (plan, items, history)
        self._enqueue(key, task)
        if not task.done.wait(call.seconds_left()):
            with self._changed:
                # What has been taken is being run, and must not outlive its model's lease.
                abandoned = not task.taken
                if abandoned:
                    self._drop(key, task)
            if abandoned:
                raise late()
            task.done.wait()
        if task.error is not None:
            raise task.error
        assert task.outputs is not None
        return task.outputs

    @property
    def waiting(self) -> int:
        """How many requests wait to be run."""
        with self._changed:
            return sum(len(queue) for queue in self._waiting.values())

    def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for something to become true of what waits; says whether it did in time."""
        with self._changed:
            return self._changed.wait_for(holds, timeout_s)

    def hurry(self) -> None:
        """See `Runner`."""
        with self._changed:
            self._hurries = True
            self._changed.notify_all()

    def close(self, seconds: float = 5.0) -> None:
        """See `Runner`; ends the threads."""
        ends = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            for task in [task for queue in self._waiting.values() for task in queue]:
                task.taken = True
                task.end(error=stopping())
            self._waiting.clear()
            self._changed.notify_all()
        self._one_by_one.close()
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _enqueue(self, key: object, task: _Task) -> None:
        most = self._options.most_lists * self._options.most_waiting
        with self._changed:
            if self._closed:
                raise stopping()
            queue = self._waiting.setdefault(key, deque())
            if sum(one.lists for one in queue) + task.lists > most:
                raise Refusal(
                    grpc.StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full: "
                    f"{self._options.most_waiting} batches are waiting",
                )
            queue.append(task)
            self._changed.notify_all()

    def _drop(self, key: object, task: _Task) -> None:
        queue = self._waiting[key]
        queue.remove(task)
        if not queue:
            del self._waiting[key]

    def _work(self) -> None:
        while True:
            with self._changed:
                tasks = self._next()
            if tasks is None:
                return
            for task in tasks:
                self._metrics.spent("wait", self._clock.now() - task.since)
            self._run(self._still_wanted(tasks))
            # Until the next batch comes, nothing of this one may be kept.
            del tasks

    def _next(self) -> list[_Task] | None:
        """Waits for a batch that is due and takes it; None when there will be no more."""
        while True:
            now = self._clock.now()
            soonest: float | None = None
            oldest: object = None
            for key, queue in self._waiting.items():
                full = sum(one.lists for one in queue) >= self._options.most_lists
                at_once = full or self._hurries
                due = now if at_once else queue[0].since + self._options.timeout_s
                if soonest is None or due < soonest:
                    soonest, oldest = due, key
            if soonest is not None and soonest <= now:
                return self._take(oldest)
            if self._closed:
                return None
            self._clock.wait(self._changed, None if soonest is None else soonest - now)

    def _take(self, key: object) -> list[_Task]:
        """The oldest request of a queue and what goes well with it."""
        queue = self._waiting[key]
        taken: list[_Task] = []
        left: deque[_Task] = deque()
        for task in queue:
            if not taken or self._fits([*taken, task]):
                task.taken = True
                taken.append(task)
            else:
                left.append(task)
        if left:
            self._waiting[key] = left
            # Another thread may begin with these at once.
            self._changed.notify_all()
        else:
            del self._waiting[key]
        return taken

    def _fits(self, tasks: list[_Task]) -> bool:
        sizes = [size(task.arrays) for task in tasks]
        lists = sum(rows for rows, _, _ in sizes)
        items = max(items for _, items, _ in sizes)
        history = max(history for _, _, history in sizes)
        real = sum(task.lists * task.width for task in tasks)
        pairs = self._options.rows(lists) * items * max(items, history)
        return (
            lists <= self._options.most_lists
            and tasks[0].plan.signature.passes * pairs <= self._most_pairs
            and real >= (1 - _MOST_PADDING) * lists * (items + history)
        )

    def _still_wanted(self, tasks: list[_Task]) -> list[_Task]:
        wanted = []
        for task in tasks:
            try:
                task.call.require_waiting()
                wanted.append(task)
            except Refusal as refusal:
                task.end(error=refusal)
        return wanted

    def _run(self, tasks: list[_Task]) -> None:
        """Runs a batch; one that fails is halved, so that only the request at fault is refused."""
        if not tasks:
            return
        if tasks[0].plan in self._alone:
            # They have waited since before that was known.
            for task in tasks:
                self._run_alone(task)
            return
        requests = [task.arrays for task in tasks]
        rows = self._options.rows(sum(task.lists for task in tasks))
        try:
            merged = merge(requests, rows)
            with self._metrics.run(rows):
                outputs = tasks[0].plan.run(merged)
            parts = split(outputs, requests, rows, tasks[0].plan.signature.of_fixed_width)
        except CannotSplit as error:
            plan = tasks[0].plan
            self._alone.add(plan)
            _log.warning("signature %s is not batched any more: %s", plan.signature.name, error)
            for task in tasks:
                self._run_alone(task)
            return
        except Exception as error:
            if len(tasks) == 1 or not isinstance(error, tf.errors.OpError):
                for task in tasks:
                    task.end(error=error)
                return
            self._run(tasks[: len(tasks) // 2])
            self._run(tasks[len(tasks) // 2 :])
            return
        for task, part in zip(tasks, parts, strict=True):
            task.end(part)

    def _run_alone(self, task: _Task) -> None:
        try:
            with self._metrics.run(task.lists):
                outputs = task.plan.run(task.arrays)
        except Exception as error:
            task.end(error=error)
            return
        task.end(outputs)
