"""Requests that share a run get the answers that they would have got alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adding_model
import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.server import Limits
from serving.server.batching import Batches, BatchingOptions, Clock
from serving.server.call import Call
from serving.server.errors import Refusal, ServingError
from serving.server.merging import merge, split
from serving.server.metrics import Metrics
from serving.server.servable import Arrays, Plan, Servable

LIMITS = Limits()
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servable]:
    folder = adding_model.push(tmp_path_factory.mktemp("batching"), 7)
    servable = Servable(7, folder)
    yield servable
    servable.close()


def plan_of(
    servable: Servable, given: Arrays, *outputs: str, signature: str = "serving_default"
) -> tuple[Plan, Arrays]:
    request = adding_model.request(given)
    return servable.prepare(signature, request.inputs, outputs, LIMITS)


def call(seconds: float | None = PATIENCE_S, is_alive: Callable[[], bool] = lambda: True) -> Call:
    return Call.within("GRPC", seconds, is_alive)


class Gate:
    """Stands before a model: its first run waits to be let through, so that others queue up."""

    def __init__(self, plan: Plan) -> None:
        self.sizes: list[int] = []
        self.entered = threading.Event()
        self.opened = threading.Event()
        self._run = plan.run

    def __call__(self, arrays: Arrays) -> Arrays:
        self.sizes.append(len(arrays["item_id"]))
        self.entered.set()
        assert self.opened.wait(PATIENCE_S)
        return self._run(arrays)


def gated(plan: Plan) -> tuple[Plan, Gate]:
    gate = Gate(plan)
    return Plan(**{**vars(plan), "run": gate}), gate


class Asked:
    """Requests that wait in threads of their own."""

    def __init__(self, batches: Batches, gate: Gate) -> None:
        self.batches = batches
        self.gate = gate
        self.found: dict[int, Any] = {}
        self.threads: list[threading.Thread] = []

    def start(self, number: int, plan: Plan, arrays: Arrays, call: Call) -> None:
        """Returns at once."""

        def run() -> None:
            try:
                self.found[number] = self.batches.run(plan, arrays, call)
            except Exception as error:
                self.found[number] = error

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def ask(self, number: int, plan: Plan, arrays: Arrays, call: Call) -> None:
        """Returns once the request is waiting, or is in the model."""
        before = self.batches.waiting
        self.start(number, plan, arrays, call)
        if number == 0:
            assert self.gate.entered.wait(PATIENCE_S)
        else:
            assert self.batches.wait_until(lambda: self.batches.waiting > before, PATIENCE_S)

    def answers(self) -> dict[int, Any]:
        self.gate.opened.set()
        for thread in self.threads:
            thread.join()
        return self.found


@pytest.fixture
def batches() -> Iterator[Callable[..., Batches]]:
    made: list[Batches] = []

    def make(clock: Clock | None = None, **options: Any) -> Batches:
        options = {"threads": 1, **options}
        made.append(Batches(BatchingOptions(**options), Metrics("piano"), LIMITS.pairs, clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


REQUESTS = st.lists(
    st.builds(
        adding_model.inputs,
        rows=st.integers(1, 4),
        items=st.integers(1, 6),
        history=st.integers(0, 5),
        seed=st.integers(0, 999),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(REQUESTS, st.sampled_from([(), (1, 2, 8, 24)]), st.sampled_from([(), ("order",)]))
def test_batched_answers_are_the_unbatched_ones(
    servable: Servable, requests: list[Arrays], allowed: tuple[int, ...], outputs: tuple[str, ...]
) -> None:
    options = BatchingOptions(most_lists=24, allowed=allowed)
    plan, _ = plan_of(servable, requests[0], *outputs)
    rows = options.rows(sum(len(one["item_id"]) for one in requests))
    merged = merge([plan_of(servable, one)[1] for one in requests], rows)
    assert all(len(array) == rows for array in merged.values())
    for one, part in zip(requests, split(plan.run(merged), requests, rows), strict=True):
        alone = plan.run(plan_of(servable, one)[1])
        assert adding_model.same(part, alone)
        wanted = adding_model.expected(one, 7)
        assert adding_model.same(part, {name: wanted[name] for name in plan.outputs})
        width = one["item_id"].shape[1]
        assert (np.sort(part["order"], axis=1) == np.arange(width)).all()


def test_order_keeps_padding_that_stands_among_the_candidates() -> None:
    """A request's own padding may come after that of the batch: it is a candidate of its list."""
    narrow, wide = {"item_id": np.full((1, 3), b"i")}, {"item_id": np.full((1, 5), b"i")}
    order = np.array([[2, 4, 0, 3, 1], [4, 3, 2, 1, 0]])
    parts = split({"order": order}, [narrow, wide], 2)
    assert [part["order"].tolist() for part in parts] == [[[2, 0, 1]], [[4, 3, 2, 1, 0]]]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"embedding": np.zeros((2, 8))}, r"output embedding has shape \(2, 8\)"),
        ({"best": np.zeros(1)}, r"output best has shape \(1,\)"),
        ({"best": np.zeros(3)}, r"output best has shape \(3,\)"),
        ({"order": np.array([[0, 0, 0], [0, 1, 2]])}, "output order is no permutation"),
    ],
    ids=["width", "few rows", "many rows", "order"],
)
def test_outputs_that_cannot_be_cut_are_named(outputs: Arrays, message: str) -> None:
    requests = [{"item_id": np.full((1, 2), b"i")}, {"item_id": np.full((1, 3), b"i")}]
    with pytest.raises(RuntimeError, match=message):
        split(outputs, requests, 2)


def test_waiting_requests_share_the_next_run(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    requests = [adding_model.inputs(items=4 + n % 2, seed=n) for n in range(5)]
    plan, gate = gated(plan_of(servable, requests[0])[0])
    asked = Asked(batches(), gate)
    for number, one in enumerate(requests):
        asked.ask(number, plan, plan_of(servable, one)[1], call())
    for number, answer in asked.answers().items():
        assert adding_model.same(answer, adding_model.expected(requests[number], 7))
    assert gate.sizes == [1, 4]


def test_full_batches_and_long_lists_make_runs_of_their_own(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    sizes = [(1, 4), (1, 4), (1, 4), (1, 100), (2, 4)]
    requests = [adding_model.inputs(rows, items, seed=n) for n, (rows, items) in enumerate(sizes)]
    plan, gate = gated(plan_of(servable, requests[0])[0])
    asked = Asked(batches(most_lists=3), gate)
    for number, one in enumerate(requests):
        asked.ask(number, plan, plan_of(servable, one)[1], call())
    for number, answer in asked.answers().items():
        assert adding_model.same(answer, adding_model.expected(requests[number], 7))
    # Of the two that fit beside the second, one list is too long and the other request too many.
    assert gate.sizes == [1, 2, 1, 2]


def test_request_at_fault_is_refused_alone(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    requests = [adding_model.inputs(seed=n) for n in range(6)]
    requests[3]["timestamp"] = np.array([-1])
    plan, gate = gated(plan_of(servable, requests[0])[0])
    asked = Asked(batches(), gate)
    for number, one in enumerate(requests):
        asked.ask(number, plan, plan_of(servable, one)[1], call())
    answers = asked.answers()
    assert "the clock runs backwards" in str(answers.pop(3))
    for number, answer in answers.items():
        assert adding_model.same(answer, adding_model.expected(requests[number], 7))


def test_outputs_that_are_not_by_list_end_batching(
    servable: Servable, batches: Callable[..., Batches], caplog: pytest.LogCaptureFixture
) -> None:
    """A top 4 of all lists of a request can be told of no batch; each gets its own."""
    requests = [adding_model.inputs(rows=1 + n % 2, seed=n) for n in range(4)]
    plan, gate = gated(plan_of(servable, requests[0])[0])

    def run(arrays: Arrays) -> Arrays:
        gate(arrays)
        return {"best": np.sort(arrays["initial_score"].ravel())[-4:]}

    plan = Plan(**{**vars(plan), "run": run})
    asked = Asked(batches(), gate)
    for number, one in enumerate(requests):
        asked.ask(number, plan, plan_of(servable, one)[1], call())
    for number, answer in asked.answers().items():
        wanted = np.sort(requests[number]["initial_score"].ravel())[-4:]
        assert answer["best"].tolist() == wanted.tolist()
    assert "serving_default is not batched any more" in caplog.text
    before = len(gate.sizes)
    asked.batches.run(plan, plan_of(servable, requests[0])[1], call())
    assert gate.sizes[before:] == [1]
    assert asked.batches.waiting == 0


def test_outputs_of_fixed_width_stay_as_wide(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    """There are five values for each list, though the lists are shorter, as long and longer."""
    requests = [adding_model.inputs(items=4 + number, seed=number) for number in range(4)]
    plan, gate = gated(plan_of(servable, requests[0], signature="select_list")[0])
    asked = Asked(batches(), gate)
    for number, one in enumerate(requests):
        asked.ask(number, plan, plan_of(servable, one, signature="select_list")[1], call())
    for number, answer in asked.answers().items():
        wanted = adding_model.expected(requests[number], 7)
        wanted["list_value"] = wanted["list_click"][:, np.newaxis] * np.arange(1.0, 6.0)
        wanted["chosen"] = np.array([4])
        assert adding_model.same(answer, wanted)
    assert gate.sizes == [1, 3]


def test_each_pass_of_a_selection_counts_as_pairs_of_a_batch(servable: Servable) -> None:
    """Two lists of four make 32 pairs, and 192 in the six passes that five values cost."""
    batches = Batches(BatchingOptions(threads=1), Metrics("piano"), most_pairs=191)
    try:
        for signature, sizes in (("serving_default", [1, 2]), ("select_list", [1, 1, 1])):
            given = adding_model.inputs(items=4)
            plan, gate = gated(plan_of(servable, given, signature=signature)[0])
            asked = Asked(batches, gate)
            for number in range(3):
                arrays = plan_of(servable, given, signature=signature)[1]
                asked.ask(number, plan, arrays, call())
            asked.answers()
            assert gate.sizes == sizes
    finally:
        batches.close()


def test_closed_batches_refuse_what_waits_and_what_comes(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    request = adding_model.inputs()
    plan, gate = gated(plan_of(servable, request)[0])
    asked = Asked(batches(), gate)
    for number in range(3):
        asked.ask(number, plan, plan_of(servable, request)[1], call())
    asked.batches.close(seconds=0)
    with pytest.raises(Refusal, match="being stopped") as caught:
        asked.batches.run(plan, plan_of(servable, request)[1], call())
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    answers = asked.answers()
    assert adding_model.same(answers.pop(0), adding_model.expected(request, 7))
    assert [answer.code for answer in answers.values()] == [grpc.StatusCode.UNAVAILABLE] * 2


def test_call_that_nobody_waits_for_is_not_run(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    requests = [adding_model.inputs(seed=n) for n in range(4)]
    plan, gate = gated(plan_of(servable, requests[0])[0])
    asked = Asked(batches(), gate)
    late = call(seconds=0.01)
    calls = [call(), late, call(is_alive=lambda: False), call()]
    for number, one in enumerate(requests):
        if one is requests[1]:
            with pytest.raises(Refusal) as caught:
                asked.batches.run(plan, plan_of(servable, one)[1], late)
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
            continue
        asked.ask(number, plan, plan_of(servable, one)[1], calls[number])
    answers = asked.answers()
    assert answers[2].code is grpc.StatusCode.CANCELLED
    assert adding_model.same(answers[3], adding_model.expected(requests[3], 7))
    assert gate.sizes == [1, 1]


def test_full_queue_is_unavailable(servable: Servable, batches: Callable[..., Batches]) -> None:
    request = adding_model.inputs()
    plan, gate = gated(plan_of(servable, request)[0])
    asked = Asked(batches(most_lists=1, most_waiting=2), gate)
    for number in range(3):
        asked.ask(number, plan, plan_of(servable, request)[1], call())
    with pytest.raises(Refusal, match="2 batches are waiting") as caught:
        asked.batches.run(plan, plan_of(servable, request)[1], call())
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert all(not isinstance(answer, Exception) for answer in asked.answers().values())


def test_request_larger_than_a_batch_is_refused(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    plan, arrays = plan_of(servable, adding_model.inputs(rows=4))
    with pytest.raises(Refusal, match="input item_id has 4 lists, expected at most 3") as caught:
        batches(most_lists=3).run(plan, arrays, call())
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


class HandClock(Clock):
    """Stands still until it is moved; the thread that waits by it is woken by that alone."""

    def __init__(self) -> None:
        self.time = 0.0
        # How long the batches' thread wants to wait.
        self.left: float | None = None
        self._changed: threading.Condition | None = None

    def now(self) -> float:
        return self.time

    def wait(self, changed: threading.Condition, seconds: float | None) -> None:
        self.left, self._changed = seconds, changed
        changed.notify_all()
        changed.wait()

    def move(self, seconds: float) -> None:
        assert self._changed is not None
        with self._changed:
            self.time += seconds
            self._changed.notify_all()


class TestWaitingForOthers:
    """Of batches of three lists that wait for 10 seconds."""

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    def plan(self, servable: Servable) -> Plan:
        return gated(plan_of(servable, adding_model.inputs())[0])[0]

    @pytest.fixture
    def asked(
        self, plan: Plan, batches: Callable[..., Batches], clock: HandClock
    ) -> Iterator[Asked]:
        assert isinstance(plan.run, Gate)
        plan.run.opened.set()
        asked = Asked(batches(clock, most_lists=3, timeout_s=10.0), plan.run)
        yield asked
        asked.batches.close(seconds=0)
        asked.answers()

    def ask(self, asked: Asked, plan: Plan, clock: HandClock, number: int) -> None:
        """Returns once the request waits and the batches' thread knows of it."""
        clock.left = None
        arrays = plan_of(plan.servable, adding_model.inputs(seed=number))[1]
        asked.ask(number, plan, arrays, call())
        assert asked.batches.wait_until(lambda: clock.left is not None, PATIENCE_S)

    def check(self, asked: Asked, *numbers: int) -> None:
        """Waits for all answers and holds them to those of the model."""
        found = asked.answers()
        assert sorted(found) == sorted(numbers)
        for number, answer in found.items():
            wanted = adding_model.expected(adding_model.inputs(seed=number), 7)
            assert adding_model.same(answer, wanted)

    def test_a_lone_request_runs_when_the_time_is_over(
        self, asked: Asked, plan: Plan, clock: HandClock
    ) -> None:
        self.ask(asked, plan, clock, 1)
        assert clock.left == 10.0
        clock.left = None
        clock.move(9.0)
        assert asked.batches.wait_until(lambda: clock.left == 1.0, PATIENCE_S)
        assert asked.gate.sizes == []
        clock.move(1.0)
        self.check(asked, 1)
        assert asked.gate.sizes == [1]

    def test_requests_that_come_in_time_share_a_run(
        self, asked: Asked, plan: Plan, clock: HandClock
    ) -> None:
        """The time counts from the first of them."""
        self.ask(asked, plan, clock, 1)
        clock.move(9.0)
        self.ask(asked, plan, clock, 2)
        assert clock.left == 1.0
        clock.move(1.0)
        self.check(asked, 1, 2)
        # A third came too late, and has ten seconds of its own.
        self.ask(asked, plan, clock, 3)
        assert clock.left == 10.0
        clock.move(10.0)
        self.check(asked, 1, 2, 3)
        assert asked.gate.sizes == [2, 1]

    def test_full_batch_does_not_wait(self, asked: Asked, plan: Plan, clock: HandClock) -> None:
        self.ask(asked, plan, clock, 1)
        self.ask(asked, plan, clock, 2)
        arrays = plan_of(plan.servable, adding_model.inputs(seed=3))[1]
        asked.start(3, plan, arrays, call())
        self.check(asked, 1, 2, 3)
        assert (asked.gate.sizes, clock.time) == ([3], 0.0)

    def test_what_waits_is_run_at_once_when_the_server_is_to_stop(
        self, asked: Asked, plan: Plan, clock: HandClock
    ) -> None:
        self.ask(asked, plan, clock, 1)
        self.ask(asked, plan, clock, 2)
        asked.batches.hurry()
        self.check(asked, 1, 2)
        assert (asked.gate.sizes, clock.time) == ([2], 0.0)


class TestOptions:
    def read(self, tmp_path: Path, text: str) -> BatchingOptions:
        path = tmp_path / "batching.txt"
        path.write_text(text)
        return BatchingOptions.read(path)

    def test_file_of_the_real_server(self, tmp_path: Path) -> None:
        options = self.read(
            tmp_path,
            "max_batch_size { value: 16 }\n"
            "batch_timeout_micros { value: 2000 }\n"
            "max_enqueued_batches { value: 5 }\n"
            "num_batch_threads { value: 3 }\n"
            'thread_pool_name { value: "lists" }\n'
            "allowed_batch_sizes: 4\nallowed_batch_sizes: 16\n"
            "pad_variable_length_inputs: true\n",
        )
        assert options == BatchingOptions(16, 0.002, 5, 3, (4, 16), True)
        assert [options.rows(lists) for lists in (1, 4, 5, 16)] == [4, 4, 16, 16]

    def test_empty_file_is_the_real_servers_defaults(self, tmp_path: Path) -> None:
        options = self.read(tmp_path, "")
        assert (options.most_lists, options.timeout_s, options.pad) == (1000, 0.0, False)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("max_batch { value: 16 }", 'no field named "max_batch"'),
            ("max_batch_size { value: 0 }", "most_lists is 0, expected 1 or more"),
            ("max_batch_size { value: 8 } allowed_batch_sizes: 4", r"sizes are \[4\], .* 8"),
            ("batch_timeout_micros { value: -1 }", "timeout_s is -1e-06, expected 0 or more"),
        ],
        ids=["field", "size", "allowed", "timeout"],
    )
    def test_faults_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ServingError, match=message):
            self.read(tmp_path, text)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ServingError, match="cannot be read"):
            BatchingOptions.read(tmp_path / "absent")


def test_without_padding_only_equal_widths_share_a_run(
    servable: Servable, batches: Callable[..., Batches]
) -> None:
    requests = [adding_model.inputs(items=4 + n % 2, seed=n) for n in range(5)]
    plan, gate = gated(plan_of(servable, requests[0])[0])
    asked = Asked(batches(pad=False), gate)
    for number, one in enumerate(requests):
        asked.ask(number, plan, plan_of(servable, one)[1], call())
    for number, answer in asked.answers().items():
        assert adding_model.same(answer, adding_model.expected(requests[number], 7))
    assert gate.sizes == [1, 2, 2]
