"""Who asks what inputs the model takes, and when: a test answers each step, on its own clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from stub_server import ASKED

from serving.client.attempts import Ended, Join, Retries, Start, Wait
from serving.client.messages import GetModelMetadataResponse, PredictResponse, SignatureDefMap
from serving.client.search_list import RequestError
from serving.client.session import RerankError, Session

TIMEOUT_S = 10.0
METADATA = "GetModelMetadata"
UNFIT = replace(ASKED, features={"user_country": "NZ"})


class World:
    """A session, its clock, and what a server says to its calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.session = Session(
            "a.test:8500",
            "piano",
            TIMEOUT_S,
            Retries(attempts=1),
            signature="serving_default",
            pad_to=(1, 1),
            first_stage_on_request_error=False,
            clock=lambda: self.now,
        )

    def call(self, asked: Any = ASKED, timeout_s: float | None = None) -> Call:
        return Call(self, asked, timeout_s)

    def learnt(self) -> World:
        """Has the first list done with."""
        call = self.call()
        call.describe()
        assert call.start.method == "Predict"
        call.steps.close()
        return self


class Call:
    """A call as far as its next step; `steps` ends with the answers or an error."""

    def __init__(self, world: World, asked: Any, timeout_s: float | None) -> None:
        self._world = world
        self.steps = world.session.rerank_batch([asked], timeout_s)
        self.error: Exception | None = None
        self.step: Any = None
        self._send(None)

    @property
    def start(self) -> Start:
        """The attempt that waits for its end."""
        assert isinstance(self._started, Start)
        return self._started

    @property
    def joins(self) -> bool:
        """Whether it waits for another call."""
        return isinstance(self.step, Join)

    def go_on(self) -> None:
        """Says that the wait is over, for whatever reason."""
        self._send(None)

    def describe(self, columns: Sequence[str] = ("query", "item_id"), version: int = 1) -> None:
        """Answers that the model takes these columns."""
        assert self.start.method == METADATA
        signatures = SignatureDefMap()
        for name in columns:
            info = signatures.signature_def["serving_default"].inputs[name]
            info.dtype = 7
            for _ in range(2 if name.startswith("item_") else 1):
                info.tensor_shape.dim.add(size=-1)
        response = GetModelMetadataResponse()
        response.model_spec.version.value = version
        response.metadata["signature_def"].value = signatures.SerializeToString()
        self._send(Ended(self.start.number, response))

    def answer(self, version: int) -> None:
        """Has a version answer, in no usable way, which says what it takes all the same."""
        response = PredictResponse()
        response.model_spec.version.value = version
        self._send(Ended(self.start.number, response))

    def fail(self, code: grpc.StatusCode) -> None:
        self._send(Ended(self.start.number, code=code, details="not now"))

    def _send(self, event: Ended | None) -> None:
        try:
            self.step = self.steps.send(event)
            if isinstance(self.step, Start):
                self._started = self.step
                self.step = self.steps.send(None)
                assert isinstance(self.step, Wait)
        except StopIteration:
            raise AssertionError("no answer here is usable") from None
        except (RequestError, RerankError) as error:
            self.error = error


class TestOneAsksForAll:
    def test_others_wait(self) -> None:
        world = World()
        first, others = world.call(), [world.call() for _ in range(31)]
        assert (first.start.method, {other.joins for other in others}) == (METADATA, {True})
        first.describe()
        for other in others:
            other.go_on()
        assert {call.start.method for call in (first, *others)} == {"Predict"}

    def test_a_failure_is_theirs_too(self) -> None:
        world = World()
        first, other = world.call(), world.call()
        first.fail(grpc.StatusCode.UNAVAILABLE)
        other.go_on()
        for call in (first, other):
            assert isinstance(call.error, RerankError)
            assert call.error.code is grpc.StatusCode.UNAVAILABLE
            assert "ended with UNAVAILABLE: not now" in str(call.error)
        assert first.error is not other.error

    def test_a_deadline_is_not(self) -> None:
        world = World()
        first, other = world.call(timeout_s=1.0), world.call()
        world.now = 1.0
        first.go_on()
        assert isinstance(first.error, RerankError)
        assert first.error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        other.go_on()
        assert (other.start.method, other.start.timeout_s) == (METADATA, TIMEOUT_S - 1)

    def test_one_that_is_given_up_leaves_it_to_another(self) -> None:
        world = World()
        first, *others = (world.call() for _ in range(3))
        first.steps.close()
        for other in others:
            other.go_on()
        assert others[0].start.method == METADATA
        assert others[1].joins

    def test_nobody_waits_past_the_own_deadline(self) -> None:
        world = World()
        world.call()
        other = world.call(timeout_s=1.0)
        assert other.step.timeout_s == 1.0
        world.now = 1.0
        other.go_on()
        assert isinstance(other.error, RerankError)
        assert other.error.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_version_that_answers_is_known() -> None:
    world = World().learnt()
    for version in (1, 2, 1, 3, 2):
        call = world.call()
        assert call.start.method == "Predict"
        call.answer(version)
        assert "gave an answer that is none" in str(call.error)


class TestWhatDoesNotFit:
    def test_has_the_inputs_asked_for_again(self) -> None:
        call = World().learnt().call(UNFIT)
        call.describe(("query", "item_id", "user_country"), version=2)
        assert call.start.method == "Predict"

    def test_but_only_once_a_second(self) -> None:
        world = World().learnt()
        asked = []
        for _ in range(35):
            call = world.call(UNFIT)
            if call.error is None:
                asked.append(world.now)
                call.describe()
            assert isinstance(call.error, RequestError)
            world.now += 0.1
        assert asked == pytest.approx([0, 1, 2, 3], abs=0.11)

    def test_a_refusal_counts_as_a_list_does(self) -> None:
        world = World().learnt()
        methods = []
        for _ in range(2):
            call = world.call()
            call.fail(grpc.StatusCode.INVALID_ARGUMENT)
            methods.append(call.start.method)
            if call.error is None:
                call.describe()
            assert isinstance(call.error, RerankError)
            assert call.error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert methods == [METADATA, "Predict"]

    def test_a_silent_server_holds_up_one_in_a_second(self) -> None:
        """The first list learns what is wrong with it at its deadline, and the next at once."""
        world = World().learnt()
        call = world.call(UNFIT)
        world.now = TIMEOUT_S
        call.go_on()
        assert isinstance(call.error, RequestError)
        assert isinstance(world.call(UNFIT).error, RequestError)

    def test_another_version_is_asked_about(self) -> None:
        world = World().learnt()
        world.call(UNFIT).describe()
        call = world.call()
        call.answer(version=2)
        assert world.call(UNFIT).start.method == METADATA

    def test_what_another_call_has_learnt_is_not_asked_for(self) -> None:
        world = World().learnt()
        behind = world.call()
        world.call(UNFIT).describe(("query", "item_id", "user_id"), version=2)
        behind.fail(grpc.StatusCode.INVALID_ARGUMENT)
        assert behind.start.method == "Predict"
        assert "user_id" in behind.start.request.inputs
