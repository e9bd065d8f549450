"""What either client makes of servers that fail, are late, disagree or are replaced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
import tensorflow as tf
from blocking_client import KINDS, BlockingClient
from stub_server import ASKED, StubServer

from serving.client import (
    FirstStageList,
    RequestError,
    RerankedList,
    RerankError,
    Retries,
    SearchList,
)

REVERSED = ("c", "b", "a")
# Far longer than anything here takes, also on a busy machine.
LONG = 60.0
SOON = 0.3
CALM = Retries(backoff_s=0.001)


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with StubServer().running() as stub:
        yield stub


@pytest.fixture(params=sorted(KINDS))
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind, and closes them."""
    with ExitStack() as stack:

        def connected(address: str, **options: Any) -> Any:
            client = KINDS[request.param](address, **{"timeout_s": LONG, **options})
            stack.callback(client.stop)
            return client

        yield connected


def refusing(code: grpc.StatusCode, times: int) -> Callable[[Any, Any], None]:
    """Refuses the first few Predicts."""
    left = iter(range(times))

    def refuse(request: Any, context: grpc.ServicerContext) -> None:
        if next(left, None) is not None:
            context.abort(code, "not now")

    return refuse


class TestFallback:
    def test_an_answer_is_the_models(self, stub: StubServer, connect: Any) -> None:
        answer = connect(stub.address).rank(ASKED)
        assert isinstance(answer, RerankedList)
        assert (answer.ranking, answer.reason, answer.model_version) == (REVERSED, None, 1)

    @pytest.mark.parametrize(
        "code",
        [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK],
        ids=lambda code: code.name,
    )
    def test_whatever_the_server_says(
        self, stub: StubServer, connect: Any, code: grpc.StatusCode
    ) -> None:
        stub.behave = refusing(code, 99)
        answer = connect(stub.address, retries=CALM).rank(ASKED)
        assert isinstance(answer, FirstStageList)
        assert answer.ranking == tuple(ASKED.item_id)
        assert answer.order == (0, 1, 2)
        assert answer.reason.code == code.name
        assert answer.reason.message.endswith(f"ended with {code.name}: not now")

    @pytest.mark.parametrize("method", ["GetModelMetadata", "Predict"])
    def test_an_answer_that_cannot_be_decoded(
        self, stub: StubServer, connect: Any, method: str
    ) -> None:
        stub.garbled.add(method)
        answer = connect(stub.address).rank(ASKED)
        assert stub.calls[-1] == method
        assert (answer.ranking, answer.reason.code) == (tuple(ASKED.item_id), "INTERNAL")

    def test_another_signature_is_asked_where_the_model_has_it(
        self, stub: StubServer, connect: Any
    ) -> None:
        asked = []
        stub.behave = lambda request, context: asked.append(request.model_spec.signature_name)
        assert connect(stub.address).rank(ASKED).reason is None
        assert connect(stub.address, signature="select_list").rank(ASKED).reason is None
        assert asked == ["serving_default", "select_list"]
        answer = connect(stub.address, signature="sort").rank(ASKED)
        assert (answer.ranking, answer.reason.code) == (tuple(ASKED.item_id), "FAILED_PRECONDITION")
        assert answer.reason.message.endswith("has no signature 'sort'")
        assert len(asked) == 2

    def test_nobody_there(self, connect: Any) -> None:
        with StubServer().running() as stub:
            address = stub.address
        answer = connect(address, retries=CALM).rank(ASKED)
        assert answer.ranking == tuple(ASKED.item_id)
        assert answer.reason.code == "UNAVAILABLE"

    def test_late(self, stub: StubServer, connect: Any) -> None:
        """The server answers only after the client has: there is no answer to wait for."""
        answered = threading.Event()
        client = connect(stub.address)
        client.rank(ASKED)
        stub.behave = lambda request, context: answered.wait(LONG)
        answer = client.rank(ASKED, timeout_s=SOON)
        answered.set()
        assert (answer.ranking, answer.reason.code) == (tuple(ASKED.item_id), "DEADLINE_EXCEEDED")

    def test_late_metadata_counts_too(self, stub: StubServer, connect: Any) -> None:
        answered = threading.Event()
        stub.describe = lambda request, context: answered.wait(LONG)
        answer = connect(stub.address).rank(ASKED, timeout_s=SOON)
        answered.set()
        assert answer.reason.code == "DEADLINE_EXCEEDED"

    @pytest.mark.parametrize("timeout_s", [0.0, -1.0])
    def test_no_time_left(self, stub: StubServer, connect: Any, timeout_s: float) -> None:
        answer = connect(stub.address).rank(ASKED, timeout_s=timeout_s)
        assert (answer.reason.code, stub.calls) == ("DEADLINE_EXCEEDED", [])

    @pytest.mark.parametrize("timeout_s", [float("nan"), float("inf")])
    def test_no_number_of_seconds(self, stub: StubServer, connect: Any, timeout_s: float) -> None:
        with pytest.raises(ValueError, match=f"timeout_s is {timeout_s}, expected a number"):
            connect(stub.address).rank(ASKED, timeout_s=timeout_s)

    def test_a_batch_keeps_every_order(self, stub: StubServer, connect: Any) -> None:
        other = replace(ASKED, item_id=["x"])
        client = connect(stub.address)
        answers = client.rank_batch([ASKED, other])
        assert [answer.ranking for answer in answers] == [REVERSED, ("x",)]
        stub.behave = refusing(grpc.StatusCode.INTERNAL, 1)
        answers = client.rank_batch([ASKED, other])
        assert [answer.ranking for answer in answers] == [("a", "b", "c"), ("x",)]
        assert client.rank_batch([]) == []

    @pytest.mark.parametrize(
        ("break_", "message"),
        [
            (lambda outputs: outputs.pop("order"), "a tensor of type 0, expected numbers"),
            (lambda outputs: outputs["click"].tensor_shape.dim.add(size=2), "cannot reshape"),
            (
                lambda outputs: outputs["score"].CopyFrom(outputs["list_click"]),
                "gave an answer that is none",
            ),
            (
                lambda outputs: outputs["order"].CopyFrom(tf.make_tensor_proto([[2.0, 1.0, 0.0]])),
                "order is of type float32, expected integers",
            ),
        ],
        ids=["no order", "too many", "too few", "no indices"],
    )
    def test_an_answer_that_is_none(
        self, connect: Any, break_: Callable[[Any], Any], message: str
    ) -> None:
        class Broken(StubServer):
            def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
                response = super().Predict(request, context)
                break_(response.outputs)
                return response

        with Broken().running() as stub:
            client = connect(stub.address)
            assert message in client.rank(ASKED).reason.message
            with pytest.raises(RerankError, match="gave an answer that is none"):
                client.rerank(ASKED)

    def test_an_order_that_is_none(self, connect: Any) -> None:
        """A page cannot show it; a gate must see it to say what is wrong with the model."""

        class Broken(StubServer):
            def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
                response = super().Predict(request, context)
                response.outputs["order"].CopyFrom(tf.make_tensor_proto([[0, 0, 2]]))
                return response

        with Broken().running() as stub:
            client = connect(stub.address)
            answer = client.rank(ASKED)
            assert answer.ranking == tuple(ASKED.item_id)
            assert answer.reason.message.endswith("gave an order that is none: (0, 0, 2)")
            assert client.rerank(ASKED).order == (0, 0, 2)

    def test_a_closed_client(self, stub: StubServer, connect: Any) -> None:
        client = connect(stub.address)
        client.close()
        assert client.rank(ASKED).reason.code == "CANCELLED"

    def test_only_rank_falls_back(self, stub: StubServer, connect: Any) -> None:
        stub.behave = refusing(grpc.StatusCode.INTERNAL, 1)
        with pytest.raises(RerankError) as caught:
            connect(stub.address).rerank(ASKED)
        assert caught.value.code is grpc.StatusCode.INTERNAL


class TestRequestError:
    bad = replace(ASKED, query=7)  # type: ignore[arg-type]

    def test_stays_an_error(self, stub: StubServer, connect: Any) -> None:
        with pytest.raises(RequestError, match="column 'query' holds 7, expected text"):
            connect(stub.address).rank(self.bad)

    def test_or_falls_back_by_choice(self, stub: StubServer, connect: Any) -> None:
        answer = connect(stub.address, first_stage_on_request_error=True).rank(self.bad)
        assert answer.ranking == tuple(ASKED.item_id)
        assert answer.reason.code == "INVALID_ARGUMENT"
        assert answer.reason.message == "list 0: column 'query' holds 7, expected text"

    def test_no_candidates_is_no_order(self, stub: StubServer, connect: Any) -> None:
        client = connect(stub.address, first_stage_on_request_error=True)
        with pytest.raises(RequestError, match="list 1: column 'item_id' is no sequence of items"):
            client.rank_batch([ASKED, replace(ASKED, item_id="abc")])
        assert client.rank(replace(ASKED, item_id=[])).ranking == ()

    def test_half_a_character(self, stub: StubServer, connect: Any) -> None:
        with pytest.raises(RequestError, match=r"column 'query' holds '\\ud83c', expected Unicode"):
            connect(stub.address).rank(replace(ASKED, query="\ud83c"))


class TestRetries:
    def test_a_server_that_is_away_for_a_moment(self, stub: StubServer, connect: Any) -> None:
        stub.behave = refusing(grpc.StatusCode.UNAVAILABLE, 2)
        assert connect(stub.address, retries=CALM).rerank(ASKED).ranking == REVERSED
        assert stub.calls == ["GetModelMetadata"] + 3 * ["Predict"]

    def test_what_is_refused_is_not_asked_again(self, stub: StubServer, connect: Any) -> None:
        stub.behave = refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, 99)
        assert connect(stub.address, retries=CALM).rank(ASKED).reason.code == "RESOURCE_EXHAUSTED"
        assert stub.calls == ["GetModelMetadata", "Predict"]


class TestHedging:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[StubServer, StubServer]]:
        with StubServer().running() as one, StubServer().running() as other:
            yield one, other

    def test_the_other_server_answers_and_the_first_is_told(
        self, pair: tuple[StubServer, StubServer], connect: Any
    ) -> None:
        """Whichever is asked first says nothing; the other one answers."""
        ports = ",".join(stub.address for stub in pair)
        client = connect(f"ipv4:{ports}", retries=Retries(hedge_after_s=0.05))
        # Until both are connected, the two attempts may go to one of them.
        while not all(stub.calls for stub in pair):
            client.rank(ASKED)
        asked: list[StubServer] = []
        done = threading.Event()
        lock = threading.Lock()

        def first_is_silent(stub: StubServer) -> Callable[[Any, Any], None]:
            def behave(request: Any, context: grpc.ServicerContext) -> None:
                with lock:
                    asked.append(stub)
                    silent = len(asked) == 1
                if silent:
                    done.wait(LONG)

            return behave

        for stub in pair:
            stub.cancelled.clear()
            stub.behave = first_is_silent(stub)
        assert client.rerank(ASKED).ranking == REVERSED
        assert len(asked) == 2
        assert asked[0] is not asked[1]
        assert asked[0].cancelled.wait(LONG)
        done.set()


class TestAnotherModel:
    def test_a_version_with_the_same_inputs(self, stub: StubServer, connect: Any) -> None:
        client = connect(stub.address)
        versions = []
        for version in (1, 1, 2, 2, 1, 2):
            stub.version = version
            versions.append(client.rerank(ASKED).model_version)
        assert versions == [1, 1, 2, 2, 1, 2]
        assert stub.calls.count("GetModelMetadata") == 1

    def test_two_versions_in_turn(self, connect: Any) -> None:
        """As while one machine after the other takes up the new version."""
        with StubServer().running() as old, StubServer().running() as new:
            new.version = 2
            client = connect(f"ipv4:{old.address},{new.address}")
            answered: list[int] = []
            # Until both are connected, all calls may go to one of them.
            while len(answered) < 8 or {*answered[-8:]} != {1, 2}:
                answered.append(client.rerank(ASKED).model_version)
                assert (old.calls + new.calls).count("GetModelMetadata") == 1

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (("query", "item_id"), ("query", "item_id", "user_country")),
            (("query", "item_id", "user_country"), ("query", "item_id", "item_artist")),
        ],
        ids=["one more", "another"],
    )
    def test_a_version_with_other_inputs(
        self, stub: StubServer, connect: Any, before: tuple[str, ...], after: tuple[str, ...]
    ) -> None:
        client = connect(stub.address)

        def asked(columns: tuple[str, ...]) -> SearchList:
            features = {"user_country": "NZ", "item_artist": ["x", "y", "z"]}
            wanted = {name: value for name, value in features.items() if name in columns}
            return replace(ASKED, features=wanted)

        stub.columns = before
        client.rerank(asked(before))
        stub.columns, stub.version = after, 2
        assert client.rerank(asked(after)).model_version == 2
        with pytest.raises(RequestError):
            client.rerank(asked(before))

    def test_a_version_with_fewer_inputs_is_seen_by_its_refusal(
        self, stub: StubServer, connect: Any
    ) -> None:
        """`timestamp` is of every list, so that the list fits before and after."""
        stub.columns = ("query", "item_id", "user_id")
        client = connect(stub.address)
        client.rerank(ASKED)
        stub.columns, stub.version = ("query", "item_id"), 2
        assert client.rank(ASKED).model_version == 2
        assert stub.calls.count("GetModelMetadata") == 2

    def test_a_refusal_of_the_same_model_is_final(self, stub: StubServer, connect: Any) -> None:
        client = connect(stub.address)
        client.rerank(ASKED)
        stub.behave = refusing(grpc.StatusCode.INVALID_ARGUMENT, 99)
        assert client.rank(ASKED).reason.code == "INVALID_ARGUMENT"
        assert stub.calls[2:] == ["Predict", "GetModelMetadata"]


def test_one_client_serves_many_threads_on_one_connection(stub: StubServer, connect: Any) -> None:
    peers: set[str] = set()
    stub.behave = lambda request, context: peers.add(context.peer())
    client = connect(stub.address)
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(client.rank, [ASKED] * 64)]
    assert {answer.ranking for answer in answers} == {REVERSED}
    assert len(peers) == 1


class TestManyCallersAtFirst:
    callers = 32

    def test_ask_for_the_inputs_once(self, stub: StubServer, connect: Any) -> None:
        came = threading.Semaphore(0)

        def describe(request: Any, context: grpc.ServicerContext) -> None:
            if stub.calls.count("GetModelMetadata") == 1:
                for _ in range(self.callers):
                    came.acquire(timeout=LONG)

        stub.describe = describe
        client = connect(stub.address)

        def rank(_: int) -> Any:
            came.release()
            return client.rank(ASKED)

        with ThreadPoolExecutor(self.callers) as threads:
            answers = [*threads.map(rank, range(self.callers))]
        assert {answer.ranking for answer in answers} == {REVERSED}
        assert stub.calls.count("GetModelMetadata") == 1

    def test_one_that_is_cancelled_leaves_it_to_another(self, stub: StubServer) -> None:
        reached, done = threading.Event(), threading.Event()

        def describe(request: Any, context: grpc.ServicerContext) -> None:
            if not reached.is_set():
                reached.set()
                done.wait(LONG)

        stub.describe = describe
        client = BlockingClient(stub.address, timeout_s=LONG)
        first, second = client.client.rank(ASKED), client.client.rank(ASKED)
        asking = asyncio.run_coroutine_threadsafe(first, client.loop)
        assert reached.wait(LONG)
        other = asyncio.run_coroutine_threadsafe(second, client.loop)
        asking.cancel()
        assert other.result(LONG).ranking == REVERSED
        done.set()
        client.stop()


def test_a_cancelled_task_cancels_its_call(stub: StubServer) -> None:
    reached, done = threading.Event(), threading.Event()

    def behave(request: Any, context: grpc.ServicerContext) -> None:
        reached.set()
        done.wait(LONG)

    stub.behave = behave
    client = BlockingClient(stub.address, timeout_s=LONG)
    asking = asyncio.run_coroutine_threadsafe(client.client.rank(ASKED), client.loop)
    assert reached.wait(LONG)
    asking.cancel()
    assert stub.cancelled.wait(LONG)
    done.set()
    client.stop()


@pytest.mark.parametrize(
    ("pad_to", "shape"), [((1, 1), (1, 3)), ((2, 5), (1, 3)), ((8, 1), (1, 8))], ids=str
)
def test_requests_of_one_shape(
    stub: StubServer, connect: Any, pad_to: tuple[int, int], shape: tuple[int, int]
) -> None:
    stub.columns = ("query", "item_id", "history_item_id")
    shapes: list[list[tuple[int, ...]]] = []

    def behave(request: Any, context: grpc.ServicerContext) -> None:
        dims = [request.inputs[name].tensor_shape.dim for name in stub.columns[1:]]
        shapes.append([tuple(dim.size for dim in each) for each in dims])

    stub.behave = behave
    answer = connect(stub.address, pad_to=pad_to).rerank(ASKED)
    assert shapes == [[shape, (1, pad_to[1])]]
    assert (answer.ranking, len(answer.score)) == (REVERSED, 3)


def test_no_place_at_all(stub: StubServer, connect: Any) -> None:
    with pytest.raises(ValueError, match=r"pad_to is \(0, 1\), expected two numbers of 1 or more"):
        connect(stub.address, pad_to=(0, 1))
