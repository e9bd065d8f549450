"""Deadlines, retries and hedges, on a clock that only the test moves."""

from __future__ import annotations

import dataclasses
import heapq
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.attempts import RETRIED, Caller, CallError, Ended, Retries, Start, Wait

Code = grpc.StatusCode
DEADLINE = 100.0
SURE = Retries(attempts=3, backoff_s=1.0, backoff_max_s=8.0, budget=100)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """What becomes of an attempt: its status, so many seconds after it began."""

    code: grpc.StatusCode
    after_s: float


@dataclasses.dataclass
class Log:
    started: list[float] = dataclasses.field(default_factory=list)
    timeouts: list[float] = dataclasses.field(default_factory=list)
    ended: float = 0.0
    answer: Any = None
    error: CallError | None = None


class World:
    """Drives a call through a script, one `Scripted` per attempt in the order of their starts."""

    def __init__(self, retries: Retries, draw: float = 1.0) -> None:
        self.now = 0.0
        self.caller = Caller(retries, clock=lambda: self.now, draw=lambda: draw)

    def run(self, script: list[Scripted], deadline: float = DEADLINE) -> Log:
        log, coming, event = Log(), [], None
        deadline += self.now
        steps = self.caller.call("Predict", "request", deadline)
        try:
            while True:
                step = steps.send(event)
                event = None
                if isinstance(step, Start):
                    assert (step.method, step.request) == ("Predict", "request")
                    fate = script[len(log.started)]
                    ended = Ended(step.number, len(log.started), fate.code, "why")
                    heapq.heappush(coming, (self.now + fate.after_s, step.number, ended))
                    log.started.append(self.now)
                    log.timeouts.append(step.timeout_s)
                    continue
                assert isinstance(step, Wait)
                assert step.timeout_s >= 0
                wake = self.now + step.timeout_s
                if coming and coming[0][0] <= wake:
                    self.now, _, event = heapq.heappop(coming)
                else:
                    self.now = wake
        except StopIteration as stop:
            log.answer = stop.value
        except CallError as error:
            log.error = error
        log.ended = self.now
        return log


OK = Scripted(Code.OK, 2)
DOWN = Scripted(Code.UNAVAILABLE, 2)
SILENT = Scripted(Code.OK, 1e9)


def test_the_first_answer_is_the_answer() -> None:
    log = World(SURE).run([OK])
    assert (log.started, log.answer, log.ended) == ([0], 0, 2)


def test_pauses_double_up_to_the_longest() -> None:
    retries = dataclasses.replace(SURE, attempts=6, backoff_max_s=4)
    log = World(retries).run([DOWN] * 5 + [OK])
    # Each attempt takes 2 s, and then come pauses of 1, 2, 4, 4 and 4.
    assert log.started == [0, 3, 7, 13, 19, 25]
    assert (log.answer, log.error) == (5, None)


def test_pauses_are_drawn() -> None:
    assert World(SURE, draw=0.5).run([DOWN, OK]).started == [0, 2.5]
    assert World(SURE, draw=0.0).run([DOWN, OK]).started == [0, 2]


def test_attempts_are_counted() -> None:
    log = World(SURE).run([DOWN] * 3)
    assert len(log.started) == 3
    assert log.error is not None
    assert (log.error.code, str(log.error)) == (Code.UNAVAILABLE, "why")


@pytest.mark.parametrize("code", [code for code in Code if code not in {*RETRIED, Code.OK}])
def test_no_other_status_is_asked_again(code: grpc.StatusCode) -> None:
    log = World(SURE).run([Scripted(code, 2)])
    assert log.error is not None
    assert (log.started, log.error.code) == ([0], code)


def test_an_attempt_may_take_what_is_left() -> None:
    log = World(SURE).run([DOWN, DOWN, OK], deadline=10)
    assert log.timeouts == [10, 7, 3]


def test_no_pause_leads_past_the_deadline() -> None:
    log = World(SURE).run([DOWN, DOWN], deadline=6)
    # The second attempt ends at 5, and a pause of 2 would be over at 7.
    assert (len(log.started), log.ended) == (2, 5)
    assert log.error is not None
    assert log.error.code == Code.UNAVAILABLE


def test_silence_ends_at_the_deadline() -> None:
    log = World(SURE).run([SILENT], deadline=6)
    assert log.ended == 6
    assert log.error is not None
    assert log.error.code == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("deadline", [0, -3])
def test_no_time_no_attempt(deadline: float) -> None:
    log = World(SURE).run([], deadline=deadline)
    assert log.error is not None
    assert (log.started, log.error.code) == ([], Code.DEADLINE_EXCEEDED)


class TestHedge:
    retries = dataclasses.replace(SURE, attempts=2, hedge_after_s=5)

    def test_a_fast_answer_needs_none(self) -> None:
        assert World(self.retries).run([OK]).started == [0]

    @pytest.mark.parametrize(
        ("first", "second", "answer", "ended"),
        [(50, 3, 1, 8), (6, 3, 0, 6), (50, 60, 0, 50)],
        ids=["the second", "the first", "both late"],
    )
    def test_the_first_answer_wins(
        self, first: float, second: float, answer: int, ended: float
    ) -> None:
        log = World(self.retries).run([Scripted(Code.OK, first), Scripted(Code.OK, second)])
        assert (log.started, log.answer, log.ended) == ([0, 5], answer, ended)

    @pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL], ids=lambda code: code.name)
    def test_one_failure_leaves_the_other(self, code: grpc.StatusCode) -> None:
        log = World(self.retries).run([Scripted(Code.OK, 20), Scripted(code, 1)])
        assert (log.answer, log.ended) == (0, 20)

    def test_counts_as_an_attempt(self) -> None:
        log = World(self.retries).run([Scripted(Code.UNAVAILABLE, 6)] * 2)
        assert log.started == [0, 5]
        assert log.ended == 11

    def test_waits_for_the_retry_when_nothing_runs(self) -> None:
        retries = dataclasses.replace(SURE, hedge_after_s=5, backoff_s=8)
        log = World(retries).run([DOWN, OK])
        # The first attempt ends at 2, and then comes a pause of 8.
        assert (log.started, log.answer) == ([0, 10], 1)

    def test_is_the_retry_that_is_to_come(self) -> None:
        """The hedge fails at 7 and is to be repeated at 15; the next is due at 10."""
        retries = dataclasses.replace(SURE, hedge_after_s=5, backoff_s=4, budget=2)
        log = World(retries).run([Scripted(Code.OK, 40), DOWN, OK])
        assert (log.started, log.answer) == ([0, 5, 10], 2)


class TestBudget:
    def test_bounds_the_further_attempts(self) -> None:
        world = World(dataclasses.replace(SURE, budget=2))
        counts = [len(world.run([DOWN] * 3).started) for _ in range(21)]
        # Two are saved up at first, and every tenth call saves another.
        assert counts[0] == 3
        assert sum(counts) == 21 + 2 + 2
        assert counts[1:9] == [1] * 8

    def test_bounds_hedges(self) -> None:
        retries = dataclasses.replace(SURE, hedge_after_s=5, budget=0)
        log = World(retries).run([Scripted(Code.OK, 20)])
        assert (log.started, log.answer) == ([0], 0)

    def test_a_call_overtaken_by_its_hedge_does_not_answer_the_next(self) -> None:
        world = World(dataclasses.replace(SURE, hedge_after_s=5))
        steps = world.caller.call("Predict", "request", DEADLINE)
        start = next(steps)
        assert isinstance(start, Start)
        next(steps)
        other = world.caller.call("Predict", "request", DEADLINE)
        assert isinstance(next(other), Start)
        next(other)
        assert isinstance(other.send(Ended(start.number, "late")), Wait)


scripts = st.lists(
    st.builds(
        Scripted,
        st.sampled_from([Code.OK, Code.UNAVAILABLE, Code.ABORTED, Code.INTERNAL]),
        st.floats(0, 40),
    ),
    min_size=5,
    max_size=5,
)
policies = st.builds(
    Retries,
    attempts=st.integers(1, 5),
    backoff_s=st.floats(0, 20),
    backoff_max_s=st.floats(0, 20),
    hedge_after_s=st.none() | st.floats(0, 20),
    budget=st.floats(0, 5),
)


@given(script=scripts, retries=policies, deadline=st.floats(-5, 60), draw=st.floats(0, 1))
def test_laws(script: list[Scripted], retries: Retries, deadline: float, draw: float) -> None:
    log = World(retries, draw).run(script, deadline)
    assert log.ended <= max(0, deadline)
    assert len(log.started) <= min(retries.attempts, 1 + retries.budget)
    assert all(began < deadline for began in log.started)
    answered = [
        began + fate.after_s
        for began, fate in zip(log.started, script, strict=False)
        if fate.code is Code.OK and began + fate.after_s <= deadline
    ]
    # The first good answer of all attempts that were made is never missed; at the very deadline it
    # may be.
    if log.error is None:
        assert log.ended == min(answered)
    else:
        assert set(answered) <= {deadline}


@pytest.mark.parametrize(
    ("name", "value"), [("attempts", 0), ("backoff_s", -1), ("hedge_after_s", float("nan"))]
)
def test_numbers_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Retries(**{name: value})
