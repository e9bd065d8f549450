"""What runs the model several times is charged for it: explanations, and the choice of a list."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import adding_model
import grpc
import pytest

from serving.server import Limits
from serving.server.batching import Batches, BatchingOptions
from serving.server.call import Call
from serving.server.errors import Refusal
from serving.server.metrics import Metrics
from serving.server.running import OneByOne
from serving.server.servable import Arrays, Plan, Servable

PATIENCE_S = 120.0
LIMITS = Limits()


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servable]:
    servable = Servable(7, adding_model.push(tmp_path_factory.mktemp("explain"), 7))
    yield servable
    servable.close()


def prepared(
    servable: Servable, signature: str, limits: Limits = LIMITS, **sizes: int
) -> tuple[Plan, Arrays]:
    inputs = adding_model.request(adding_model.inputs(**sizes)).inputs
    return servable.prepare(signature, inputs, (), limits)


def test_lists_times_candidates_squared_are_limited(servable: Servable) -> None:
    limits = Limits(explained=199)
    prepared(servable, "explain", limits, rows=1, items=14)
    prepared(servable, "serving_default", limits, rows=2, items=10)
    with pytest.raises(
        Refusal, match="2 lists of 10 candidates, which makes 200 lists x"
    ) as caught:
        prepared(servable, "explain", limits, rows=2, items=10)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("limits", "sizes", "message"),
    [
        (
            Limits(lists=17),
            {"rows": 3},
            "3 lists, expected at most 2, for the .* run 6 times",
        ),
        (
            Limits(pairs=1199),
            {"rows": 2, "items": 10},
            "makes 1200 pairs .* 1199, .* run 6 times",
        ),
    ],
    ids=["lists", "pairs"],
)
def test_each_pass_of_a_selection_counts(
    servable: Servable, limits: Limits, sizes: dict[str, int], message: str
) -> None:
    """Five values are the model's of five orders, and one more pass makes the orders."""
    prepared(servable, "serving_default", limits, **sizes)
    fewer = {**sizes, "rows": sizes["rows"] - 1}
    prepared(servable, "select_list", limits, **fewer)
    with pytest.raises(Refusal, match=message) as caught:
        prepared(servable, "select_list", limits, **sizes)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def waiting(plan: Plan) -> tuple[Plan, threading.Event, threading.Event]:
    """A plan that says when it has begun, and ends when it is let."""
    begun, let = threading.Event(), threading.Event()

    def run(arrays: Arrays) -> Arrays:
        begun.set()
        assert let.wait(PATIENCE_S)
        return plan.run(arrays)

    return dataclasses.replace(plan, run=run), begun, let


@pytest.mark.parametrize("batched", [False, True], ids=["single", "batch"])
def test_explanations_do_not_hold_up_the_others(servable: Servable, batched: bool) -> None:
    metrics = Metrics("piano")
    call = Call.within("GRPC", PATIENCE_S)
    runner: Any = (
        Batches(BatchingOptions(threads=1), metrics, LIMITS.pairs)
        if batched
        else OneByOne(metrics, runs=1)
    )
    explain, begun, let = waiting(prepared(servable, "explain")[0])
    given = adding_model.inputs()
    plan, arrays = prepared(servable, "serving_default")
    thread = threading.Thread(target=runner.run, args=(explain, arrays, call))
    thread.start()
    try:
        assert begun.wait(PATIENCE_S)
        assert adding_model.same(runner.run(plan, arrays, call), adding_model.expected(given, 7))
    finally:
        let.set()
        thread.join()
        runner.close()


def test_only_so_many_explanations_wait(servable: Servable) -> None:
    runner = OneByOne(Metrics("piano"))
    plan, arrays = prepared(servable, "explain")
    call = Call.within("GRPC", PATIENCE_S)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(runner.explanations())
        with pytest.raises(Refusal, match="8 explanations are in progress") as caught:
            runner.run(plan, arrays, call)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    runner.run(plan, arrays, call)
