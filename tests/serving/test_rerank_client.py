"""The typed client, against the local server on a free port."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus as State

from serving.client import RequestError, RerankClient, RerankedList, RerankError, SearchList
from serving.server import ModelServer
from serving.server.api import ModelApi

ADA = SearchList(
    query="so what",
    user_id="ada",
    item_id=["kind-of-blue", "bags-groove", "moanin"],
    timestamp=1_700_000_000,
    initial_score=[0.9, 0.2, 0.1],
    history_query=["art blakey", "blue"],
    history_item_id=["free-for-all", "blue-train"],
    history_action=["conversion", "click"],
    history_age=[0.0, 3],
    features={
        "item_artist": ["davis", "davis", "blakey"],
        "item_popularity": [3.0, 1, 2.0],
        "user_country": "IT",
        "history_item_artist": ["blakey", "coltrane"],
    },
)
COLD = SearchList(
    query="",
    user_id="nobody",
    item_id=["only"],
    initial_score=[0.5],
    features={"item_artist": ["davis"], "item_popularity": [0.25], "user_country": "NZ"},
)


def with_features(asked: SearchList, **features: Any) -> SearchList:
    return replace(asked, features={**asked.features, **features})


def without_feature(asked: SearchList, name: str) -> SearchList:
    return replace(asked, features={k: v for k, v in asked.features.items() if k != name})


class TestRerank:
    def test_answer_is_the_models(self, client: RerankClient) -> None:
        answer = client.rerank(ADA)
        scores = np.array([0.9, 0.2, 0.1 + 1 / (1 + 0.0)])
        click = 1 / (1 + np.exp(-scores))
        conversion = click / (1 + np.exp(1 - scores))
        assert answer.order == (2, 0, 1)
        assert answer.ranking == ("moanin", "kind-of-blue", "bags-groove")
        assert answer.item_id == tuple(ADA.item_id)
        assert answer.score == pytest.approx(scores)
        assert answer.click == pytest.approx(click)
        assert answer.conversion == pytest.approx(conversion)
        assert answer.list_click == pytest.approx(1 - np.prod(1 - click))
        assert answer.list_conversion == pytest.approx(1 - np.prod(1 - conversion))
        assert answer.model_version == 12

    def test_one_candidate_and_no_history(self, client: RerankClient) -> None:
        answer = client.rerank(COLD)
        assert answer.ranking == ("only",)
        assert answer.score == pytest.approx([0.5 + 0.25])

    def test_answers_hold_plain_python_values(self, client: RerankClient) -> None:
        answer = client.rerank(ADA)
        assert {type(index) for index in answer.order} == {int}
        assert {type(value) for value in (*answer.score, answer.list_click)} == {float}

    def test_a_log_row_answers_as_its_list(self, client: RerankClient) -> None:
        row = {**ADA.columns(), "click": [0, 1, 0], "conversion": [0, 0, 0], "user_city": None}
        arrays = {
            name: np.array(value) if isinstance(value, list) else value
            for name, value in row.items()
        }
        assert client.rerank(SearchList.from_columns(row)) == client.rerank(ADA)
        assert client.rerank(SearchList.from_columns(arrays)) == client.rerank(ADA)

    def test_no_lists_no_answers(self, client: RerankClient) -> None:
        assert client.rerank_batch([]) == []

    def test_inputs_are_learnt_once(self, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        original = ModelApi.get_model_metadata

        def recorded(api: ModelApi, request: Any) -> Any:
            asked.append(request.model_spec.name)
            return original(api, request)

        monkeypatch.setattr(ModelApi, "get_model_metadata", recorded)
        with ModelServer(model_dir, port=0) as server:
            client = RerankClient(server.address, timeout_s=60)
            client.rerank(ADA)
            client.rerank_batch([COLD, ADA])
            client.close()
        assert asked == ["piano"]


words = st.text(max_size=6)
ids = st.text(min_size=1, max_size=6)
artists = st.sampled_from(["davis", "coltrane", "blakey", "ørsted"])


@st.composite
def search_lists(draw: st.DrawFn) -> SearchList:
    candidates, past = draw(st.integers(1, 5)), draw(st.integers(0, 4))

    def some(values: st.SearchStrategy[Any], size: int) -> list[Any]:
        return draw(st.lists(values, min_size=size, max_size=size))

    return SearchList(
        query=draw(words),
        user_id=draw(words),
        item_id=some(ids, candidates),
        initial_score=some(st.integers(-40, 40).map(lambda n: n / 10), candidates),
        history_query=some(words, past),
        history_item_id=some(ids, past),
        history_action=some(st.sampled_from(["click", "conversion"]), past),
        history_age=some(st.integers(0, 30), past),
        features={
            "item_artist": some(artists, candidates),
            "item_popularity": some(st.integers(0, 9), candidates),
            "user_country": draw(st.sampled_from(["NZ", "IT"])),
            "history_item_artist": some(artists, past),
        },
    )


def flat(answer: RerankedList) -> list[float]:
    return [
        *answer.score,
        *answer.click,
        *answer.conversion,
        answer.list_click,
        answer.list_conversion,
    ]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(asked=st.lists(search_lists(), min_size=1, max_size=4))
def test_a_batch_answers_as_one_by_one(
    client: RerankClient, expected_scores: Callable[[SearchList], np.ndarray], asked: Any
) -> None:
    together = client.rerank_batch(asked)
    for search_list, answer in zip(asked, together, strict=True):
        alone = client.rerank(search_list)
        assert flat(answer) == pytest.approx(flat(alone), rel=1e-5, abs=1e-6)
        assert answer.score == pytest.approx(expected_scores(search_list), rel=1e-5, abs=1e-5)
        # Equal scores may change places when rounding differs: each place keeps its score.
        places = [[each.score[index] for index in each.order] for each in (answer, alone)]
        assert places[0] == pytest.approx(places[1], rel=1e-5, abs=1e-6)
        assert sorted(answer.ranking) == sorted(search_list.item_id)


class TestRequestError:
    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (replace(ADA, item_id=[]), "column 'item_id' is empty, expected a candidate or more"),
            (
                replace(ADA, initial_score=None),
                "column 'initial_score' is missing, expected a finite number for each item_id",
            ),
            (
                without_feature(ADA, "user_country"),
                "column 'user_country' is missing, expected text for the list",
            ),
            (
                replace(without_feature(ADA, "user_country"), initial_score=None),
                "expected a finite number for each item_id; so are 'user_country'",
            ),
            (
                without_feature(ADA, "history_item_artist"),
                "column 'history_item_artist' is missing, expected text for each history_item_id",
            ),
            (
                with_features(ADA, item_mood=["calm"] * 3),
                "the model takes no column 'item_mood', given ['calm', 'calm', 'calm']; it takes ",
            ),
            (
                with_features(ADA, item_artist=["davis"]),
                "column 'item_artist' holds 1 values, ['davis'], expected 3 as item_id has",
            ),
            (
                replace(ADA, history_age=[1.0]),
                "column 'history_age' holds 1 values, [1.0], expected 2 as history_item_id has",
            ),
            (
                with_features(ADA, user_country=64),
                "column 'user_country' holds 64, expected text",
            ),
            (
                replace(ADA, query=["so", "what"]),  # type: ignore[arg-type]
                "column 'query' holds ['so', 'what'], expected text",
            ),
            (
                replace(ADA, timestamp=1.5),  # type: ignore[arg-type]
                "column 'timestamp' holds 1.5, expected an integer",
            ),
            (
                replace(ADA, timestamp=2**63),
                "column 'timestamp' holds 9223372036854775808, expected an integer",
            ),
            (
                with_features(ADA, item_popularity=[3, "much", 1]),
                "column 'item_popularity' holds 'much' at position 1, expected a finite number",
            ),
            (
                replace(ADA, initial_score=[0.9, 0.2, float("nan")]),
                "column 'initial_score' holds nan at position 2, expected a finite number",
            ),
            (
                replace(ADA, initial_score=[10**400, 0.2, 0.1]),
                "at position 0, expected a finite number",
            ),
            (
                replace(ADA, initial_score=[True, 0.2, 0.1]),
                "column 'initial_score' holds True at position 0, expected a finite number",
            ),
            (
                replace(ADA, item_id="abc"),
                "column 'item_id' holds 'abc', expected a sequence",
            ),
            (
                replace(ADA, item_id=["a", "", "c"]),
                "column 'item_id' holds '' at position 1, "
                "expected an item: text other than '', which marks padding",
            ),
            (
                replace(ADA, history_item_id=["a", ""]),
                "column 'history_item_id' holds '' at position 1, expected an item",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_names_the_list_and_the_column(
        self, client: RerankClient, asked: SearchList, message: str
    ) -> None:
        with pytest.raises(RequestError) as caught:
            client.rerank_batch([ADA, asked])
        assert str(caught.value).startswith("list 1: ")
        assert message in str(caught.value)

    def test_is_a_value_error(self) -> None:
        assert issubclass(RequestError, ValueError)

    @pytest.mark.parametrize("name", ["query", "user_id", "item_id"])
    def test_row_without_a_required_column(self, name: str) -> None:
        row = {key: value for key, value in ADA.columns().items() if key != name}
        with pytest.raises(RequestError, match=f"the row has no column '{name}'"):
            SearchList.from_columns(row)

    def test_feature_that_is_an_attribute(self) -> None:
        with pytest.raises(RequestError, match="features holds 'query'"):
            with_features(ADA, query="so what")


@pytest.fixture
def free_address(model_dir: Path) -> str:
    """An address that nobody listens on any more."""
    with ModelServer(model_dir, port=0) as server:
        return server.address


class TestRerankError:
    def test_unreachable_server(self, free_address: str) -> None:
        with (
            RerankClient(free_address, timeout_s=60) as client,
            pytest.raises(RerankError, match=f"{free_address} ended with UNAVAILABLE") as caught,
        ):
            client.rerank(ADA)
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE

    def test_unknown_model(self, server: ModelServer) -> None:
        with RerankClient(server.address, model_name="forte", timeout_s=60) as client:
            for call in (
                lambda: client.rerank(ADA),
                lambda: client.wait_until_available(timeout_s=60),
            ):
                with pytest.raises(RerankError, match="NOT_FOUND") as caught:
                    call()
                assert caught.value.code == grpc.StatusCode.NOT_FOUND

    def test_model_refuses(self, client: RerankClient) -> None:
        with pytest.raises(RerankError, match="the clock runs backwards") as caught:
            client.rerank(replace(ADA, timestamp=-1))
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        ("signature", "shape", "message"),
        [
            ("rank", [None, None], "the model 'piano' at .* has no signature 'serving_default'"),
            ("serving_default", [None, None, 8], "takes 'sound' of type float32 and rank 3"),
        ],
    )
    def test_model_of_another_kind(
        self, tmp_path: Path, signature: str, shape: list[int | None], message: str
    ) -> None:
        module = tf.Module()
        module.score = tf.function(
            lambda sound: {"score": sound},
            input_signature=[tf.TensorSpec(shape, tf.float32, "sound")],
        )
        tf.saved_model.save(module, str(tmp_path / "1"), signatures={signature: module.score})
        with ModelServer(tmp_path, port=0) as server:
            client = RerankClient(server.address, timeout_s=60)
            with pytest.raises(RerankError, match=message) as caught:
                client.rerank(ADA)
            client.close()
        assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION


class TestWaiting:
    def test_returns_the_version(self, client: RerankClient) -> None:
        assert client.wait_until_available(timeout_s=60) == 12

    def test_waits_for_a_server_to_come_up(self, model_dir: Path, free_address: str) -> None:
        port = int(free_address.rpartition(":")[2])
        with RerankClient(free_address) as client, ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.wait_until_available, timeout_s=60)
            with ModelServer(model_dir, port=port):
                assert waiting.result() == 12

    def test_gives_up_in_time(self, free_address: str) -> None:
        with RerankClient(free_address) as client, pytest.raises(RerankError) as caught:
            client.wait_until_available(timeout_s=0.05)
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED

    def test_waits_for_a_version_to_be_loaded(self) -> None:
        states = (State.START, State.LOADING, State.LOADING, State.AVAILABLE)
        with going_through(*states) as address, RerankClient(address) as client:
            assert client.wait_until_available(timeout_s=60) == 1

    def test_loading_is_not_available(self) -> None:
        with going_through(State.LOADING) as address, RerankClient(address) as client:
            message = f"no version of 'piano' was available at {address} within 0.5 s"
            with pytest.raises(RerankError, match=message) as caught:
                client.wait_until_available(timeout_s=0.5)
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED

    def test_what_is_not_loaded_any_more_is_not_waited_for(self) -> None:
        with (
            going_through(State.LOADING, State.END) as address,
            RerankClient(address) as client,
            pytest.raises(RerankError, match="no version of 'piano' was available") as caught,
        ):
            client.wait_until_available(timeout_s=60)
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE


@contextlib.contextmanager
def going_through(*states: int) -> Iterator[str]:
    """A server whose version is in one state after the other, at each look, and stays in the last;
    yields its address."""
    coming = itertools.chain(states, itertools.repeat(states[-1]))

    class Loading(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request: Any, context: Any) -> GetModelStatusResponse:
            return GetModelStatusResponse(
                model_version_status=[State(version=1, state=next(coming))]
            )

    server = grpc.server(ThreadPoolExecutor(1))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Loading(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_import_is_quiet_and_without_tensorflow() -> None:
    program = "import sys, serving.client; sys.exit('tensorflow' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_layers_below_are_not_imported() -> None:
    """`serving` knows signatures, not layers."""
    program = (
        "import sys, serving.client, serving.server; "
        "sys.exit(bool({'piano_tf', 'tfx_pipeline'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert done.returncode == 0
