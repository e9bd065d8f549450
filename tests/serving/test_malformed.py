"""Requests that no client should send: each is answered by a status that names its fault."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import adding_model
import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from benchmarks.fuzz_grpc import EXPECTED, GrpcFuzzer, is_same_answer
from benchmarks.fuzz_server import fuzz, memory_fault
from serving.server import BatchingOptions, Limits, ModelServer, ServerOptions, ServingError
from serving.server.servable import Plan

PATIENCE_S = 120.0
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
LIMITS = Limits(
    message_bytes=20_000, lists=30, list_length=50, pairs=8_000, values=1_200, concurrency=4
)


@pytest.fixture(scope="module", params=[None, BatchingOptions()], ids=["single", "batch"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("malformed")
    adding_model.push(folder, 7)
    options = ServerOptions(limits=LIMITS, batching=request.param)
    with ModelServer(folder, port=0, options=options) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: ModelServer) -> Iterator[grpc.Channel]:
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(server.address, options) as channel:
        yield channel


def ask(channel: grpc.Channel, inputs: dict[str, Any]) -> tuple[grpc.StatusCode, str]:
    call = PredictionServiceStub(channel).Predict.future(
        adding_model.request(inputs), timeout=PATIENCE_S
    )
    call.exception()
    return call.code(), call.details()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            {"initial_score": np.zeros((1, 4), np.float32)},
            INVALID,
            "input initial_score has lists of 4, expected 3 as item_id has",
        ),
        (
            {"history_age": np.zeros((1, 3), np.float32)},
            INVALID,
            "input history_item_id has lists of 2, expected 3 as history_age has",
        ),
        (
            {"list_id": np.array(["a", "b"])},
            INVALID,
            "input list_id has 2 lists, expected 1 as item_id has",
        ),
        (
            {"initial_score": np.array([[0, np.nan, 1]], np.float32)},
            INVALID,
            "input initial_score holds nan at [0, 1], expected finite numbers",
        ),
        (
            adding_model.inputs(items=0),
            INVALID,
            "input item_id has shape (1, 0), expected a list and a candidate or more",
        ),
        (
            adding_model.inputs(rows=0),
            INVALID,
            "input item_id has shape (0, 3), expected a list and a candidate or more",
        ),
        (
            adding_model.inputs(items=51),
            EXHAUSTED,
            "input item_id has lists of 51, expected at most 50",
        ),
        (
            adding_model.inputs(history=51),
            EXHAUSTED,
            "input history_age has lists of 51, expected at most 50",
        ),
        (
            adding_model.inputs(rows=21, items=10, history=40),
            EXHAUSTED,
            "input item_id has 21 lists of 10 candidates, which makes 8400 pairs with the longer "
            "of candidates and past actions, expected at most 8000",
        ),
        (
            adding_model.inputs(rows=31),
            EXHAUSTED,
            "input item_id has 31 lists, expected at most 30",
        ),
        (
            adding_model.inputs(rows=30, items=10, history=10),
            EXHAUSTED,
            "the inputs have 1260 values, expected at most 1200; input ",
        ),
        (
            {"list_id": np.array(["x" * 20_000])},
            EXHAUSTED,
            "bytes, expected at most 20000",
        ),
    ],
    ids=[
        "items",
        "history",
        "lists",
        "nan",
        "no candidate",
        "no list",
        "long list",
        "long history",
        "pairs",
        "many lists",
        "values",
        "message",
    ],
)
def test_fault_is_named(
    channel: grpc.Channel, change: dict[str, Any], code: grpc.StatusCode, message: str
) -> None:
    found, details = ask(channel, {**adding_model.inputs(), **change})
    assert found == code
    assert message in details


def test_bytes_that_are_no_message(channel: grpc.Channel) -> None:
    predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        predict(b"\xff\xff", timeout=PATIENCE_S)
    assert caught.value.code() == INVALID
    assert "the request is no PredictRequest" in caught.value.details()


def test_few_bytes_that_ask_for_much_memory(channel: grpc.Channel) -> None:
    request = adding_model.request(adding_model.inputs())
    for tensor in request.inputs.values():
        for dim, size in zip(tensor.tensor_shape.dim, (2**40, 2**20), strict=False):
            dim.size = size
    with pytest.raises(grpc.RpcError) as caught:
        PredictionServiceStub(channel).Predict(request, timeout=PATIENCE_S)
    assert caught.value.code() == EXHAUSTED


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            TensorProto(dtype=7, string_val=[b"a"]),
            "input item_id brings 1 values, expected 3 as its shape (1, 3) has",
        ),
        (TensorProto(dtype=7), "input item_id brings 0 values, expected 3"),
        (
            TensorProto(dtype=1, float_val=[0.5, 0.5]),
            "input initial_score brings 2 values, expected 3",
        ),
        (
            TensorProto(dtype=1, tensor_content=b"\0" * 8),
            "input initial_score cannot be parsed",
        ),
    ],
    ids=["text", "nothing", "floats", "bytes"],
)
def test_one_value_is_not_repeated(
    channel: grpc.Channel, tensor: TensorProto, message: str
) -> None:
    """A message of few bytes could ask for any amount of memory."""
    request = adding_model.request(adding_model.inputs())
    name = "item_id" if tensor.dtype == 7 else "initial_score"
    shape = request.inputs[name].tensor_shape
    tensor.tensor_shape.CopyFrom(shape)
    request.inputs[name].CopyFrom(tensor)
    with pytest.raises(grpc.RpcError) as caught:
        PredictionServiceStub(channel).Predict(request, timeout=PATIENCE_S)
    assert caught.value.code() == INVALID
    assert message in caught.value.details()


def test_one_request_too_many(channel: grpc.Channel, server: ModelServer) -> None:
    with server.api.admitted(), server.api.admitted(), server.api.admitted(), server.api.admitted():
        code, details = ask(channel, adding_model.inputs())
    assert (code, details) == (
        EXHAUSTED,
        "4 requests are in progress, which is the most there may be",
    )
    assert ask(channel, adding_model.inputs())[0] == grpc.StatusCode.OK


TENSORS = st.builds(
    lambda dtype, sizes, content, values, strings: TensorProto(
        dtype=dtype,
        tensor_shape={"dim": [{"size": size} for size in sizes]},
        tensor_content=content,
        float_val=values,
        string_val=strings,
    ),
    dtype=st.sampled_from([1, 1, 7, 7, 9, 3, 0, 20, 99]),
    sizes=st.lists(st.sampled_from([1, 1, 2, 3, 0, -1, -2, 51, 2**40]), max_size=3),
    content=st.binary(max_size=24),
    values=st.lists(st.floats(width=32), max_size=3),
    strings=st.lists(st.binary(max_size=3), max_size=3),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(inputs=st.dictionaries(st.sampled_from(sorted(adding_model.SPECS)), TENSORS, min_size=1))
def test_any_tensors_are_answered_or_refused_by_name(
    channel: grpc.Channel, inputs: dict[str, TensorProto]
) -> None:
    request = adding_model.request(adding_model.inputs())
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tensor)
    call = PredictionServiceStub(channel).Predict.future(request, timeout=PATIENCE_S)
    if call.exception() is not None:
        assert call.code() in EXPECTED, call.details()
        named = [name for name in adding_model.SPECS if name in call.details()]
        # The model's own complaint, of a column that is as the signature has it.
        if "clock runs backwards" in call.details():
            named = ["timestamp"]
        if len(inputs) > 1:
            assert named
            return
        # The others fit each other: the damaged one is named, if only as what another does not fit,
        # and it is the one at fault where it has not the type or the rank of the signature.
        (name, tensor), *_ = inputs.items()
        assert name in named
        spec = adding_model.SPECS[name]
        has = (tensor.dtype, len(tensor.tensor_shape.dim))
        if has != (spec.dtype.as_datatype_enum, spec.shape.rank):
            assert call.details().startswith(f"input {name} ")


ANSWER = {
    "score": np.array([[0.5, 0.75, 0.75, 0.25]], np.float32),
    "order": np.array([[1, 2, 0, 3]], np.int32),
    "list_id": np.array([b"l"], object),
}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"score": ANSWER["score"] + np.float32(1e-5)}, True),
        ({"score": ANSWER["score"] + np.float32(1e-3)}, False),
        ({"order": np.array([[2, 1, 0, 3]])}, True),
        ({"order": np.array([[0, 1, 2, 3]])}, False),
        ({"order": np.array([[1, 1, 0, 3]])}, False),
        ({"order": np.array([[1, 2, 0]])}, False),
        ({"list_id": np.array([b"m"], object)}, False),
        ({"chosen": np.array([0])}, False),
    ],
    ids=[
        *("itself", "rounded", "another score", "ties", "another order", "no permutation"),
        *("shorter", "text", "one more"),
    ],
)
def test_what_is_the_first_answer_again(change: dict[str, Any], same: bool) -> None:
    assert is_same_answer({**ANSWER, **change}, ANSWER) == same


@pytest.mark.parametrize(
    ("megabytes", "fault"),
    [
        ([881, 968, 969, 969], None),
        ([500, 800, 900, 1000], None),
        (
            [500, 800, 900, 1001],
            "the server has 1001 MiB, and had 800 after half of the requests, expected at most "
            "1.25 times as much",
        ),
    ],
    ids=["level", "at most", "grows"],
)
def test_memory_that_grows_is_a_fault(megabytes: list[float], fault: str | None) -> None:
    assert memory_fault(megabytes) == fault


def test_fuzzer_finds_nothing(server: ModelServer) -> None:
    outcome = fuzz(GrpcFuzzer, server.address, requests=1500, threads=3, seed=1)
    assert outcome.faults == []
    assert outcome.statuses.keys() >= {"OK", *(code.name for code in EXPECTED)}


def test_fuzzer_finds_a_server_at_fault(server: ModelServer, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("serving.server.servable.decode", fail)
    assert fuzz(GrpcFuzzer, server.address, requests=30, threads=1, seed=1).faults


def test_fuzzer_finds_another_order(server: ModelServer, monkeypatch: Any) -> None:
    working, calls = Plan.encode, itertools.count()

    def encode(plan: Plan, arrays: dict[str, Any], messages: Any) -> None:
        if "order" in arrays and next(calls) >= 3:  # the first answer of each signature
            arrays = {**arrays, "order": arrays["order"][:, ::-1]}
        working(plan, arrays, messages)

    monkeypatch.setattr(Plan, "encode", encode)
    outcome = fuzz(GrpcFuzzer, server.address, requests=60, threads=1, seed=1)
    assert {*outcome.faults} == {"a good request was answered otherwise than at first"}


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ServingError, match="the limit list_length is 0, expected 1 or more"):
        Limits(list_length=0)
