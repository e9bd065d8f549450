"""Requests that wait to be run one by one are run in turn, and those that are late are not."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator

import adding_model
import grpc
import pytest

from serving.server import Limits
from serving.server.call import Call
from serving.server.errors import Refusal
from serving.server.metrics import Metrics
from serving.server.running import OneByOne
from serving.server.servable import Arrays, Plan, Servable

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servable]:
    servable = Servable(7, adding_model.push(tmp_path_factory.mktemp("running"), 7))
    yield servable
    servable.close()


class Asked:
    """Requests to a runner of one place, of which the first stays in it until it is let out."""

    def __init__(self, servable: Servable) -> None:
        request = adding_model.request(adding_model.inputs())
        self.plan, self.arrays = servable.prepare("serving_default", request.inputs, (), Limits())
        self.runner = OneByOne(Metrics("piano"), runs=1)
        self.order: list[str] = []
        self.refused: dict[str, grpc.StatusCode] = {}
        self.entered = threading.Event()
        self.let_out = threading.Event()
        self.threads: list[threading.Thread] = []

    def named(self, name: str) -> Plan:
        """The plan that notes when it is run."""

        def run(arrays: Arrays) -> Arrays:
            self.order.append(name)
            self.entered.set()
            assert self.let_out.wait(PATIENCE_S)
            return self.plan.run(arrays)

        return dataclasses.replace(self.plan, run=run)

    def run(self, *names: str, seconds: float = PATIENCE_S) -> None:
        """Runs one after the other, on this thread."""
        for name in names:
            try:
                self.runner.run(self.named(name), self.arrays, Call.within("GRPC", seconds))
            except Refusal as refusal:
                self.refused[name] = refusal.code

    def ask(self, *names: str) -> None:
        """Runs one after the other on a thread; returns once the first waits, or is run."""
        places = self.runner.places
        before, is_first = places.waiting, not self.order
        self.threads.append(threading.Thread(target=self.run, args=names))
        self.threads[-1].start()
        if is_first:
            assert self.entered.wait(PATIENCE_S)
        else:
            assert places.wait_until(lambda: places.waiting > before, PATIENCE_S)

    def end(self) -> None:
        self.let_out.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def asked(servable: Servable) -> Iterator[Asked]:
    asked = Asked(servable)
    yield asked
    asked.end()


def test_who_has_waited_longest_is_next(asked: Asked) -> None:
    """The caller of the first comes again at once, when the place has hardly been left."""
    asked.ask("first", "again")
    asked.ask("second")
    asked.ask("third")
    asked.end()
    assert asked.order == ["first", "second", "third", "again"]


def test_call_that_is_late_is_not_run(asked: Asked) -> None:
    asked.ask("first")
    asked.run("late", seconds=0.01)
    assert asked.refused == {"late": grpc.StatusCode.DEADLINE_EXCEEDED}
    asked.ask("second")
    asked.end()
    assert asked.order == ["first", "second"]


def test_call_whose_turn_comes_when_its_time_is_over_is_not_run(asked: Asked) -> None:
    """The place that it was given goes on to the next."""
    asked.ask("first")
    places = asked.runner.places
    acquire: Callable[[float | None], bool] = places.acquire
    # It is let through for having had the place in time, and finds out that it is late.
    places.acquire = lambda timeout_s: acquire(PATIENCE_S)  # type: ignore[method-assign]
    late = threading.Thread(target=asked.run, args=("late",), kwargs={"seconds": 0.0})
    asked.threads.append(late)
    late.start()
    assert places.wait_until(lambda: places.waiting == 1, PATIENCE_S)
    asked.ask("second")
    asked.end()
    assert asked.order == ["first", "second"]
    assert asked.refused == {"late": grpc.StatusCode.DEADLINE_EXCEEDED}


def test_end_refuses_all_that_wait(asked: Asked) -> None:
    asked.ask("first")
    asked.ask("second")
    asked.ask("third")
    asked.runner.close()
    asked.end()
    assert asked.order == ["first"]
    assert asked.refused == dict.fromkeys(("second", "third"), grpc.StatusCode.UNAVAILABLE)
