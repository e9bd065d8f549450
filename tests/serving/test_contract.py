"""The documented requests get the documented answers, through foreign stubs and both clients."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from blocking_client import KINDS
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.client import SearchList
from serving.server import BatchingOptions, ModelServer, ServerOptions

EXAMPLES = Path(__file__).parents[2] / "serving" / "examples"
PATIENCE_S = 120.0
VERSION = 12
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module", params=[None, BatchingOptions()], ids=["single", "batch"])
def server(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[ModelServer]:
    options = ServerOptions(rest_port=0, batching=request.param)
    with ModelServer(model_dir, port=0, options=options) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: ModelServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


def read(name: str, message: Any) -> Any:
    return text_format.Parse((EXAMPLES / f"{name}.pbtxt").read_text(encoding="utf-8"), message)


@pytest.mark.parametrize("name", ["serving_default", "serve_examples", "explain", "select_list"])
def test_grpc_example(channel: grpc.Channel, name: str) -> None:
    request = read(f"{name}.request", PredictRequest())
    wanted = read(f"{name}.response", PredictResponse())
    found = PredictionServiceStub(channel).Predict(request, timeout=PATIENCE_S)
    assert found.model_spec == wanted.model_spec
    assert found.outputs.keys() == wanted.outputs.keys()
    for output, tensor in wanted.outputs.items():
        assert found.outputs[output].dtype == tensor.dtype
        np.testing.assert_allclose(
            tf.make_ndarray(found.outputs[output]), tf.make_ndarray(tensor), **CLOSE
        )


@pytest.mark.parametrize("name", ["columns", "rows", "explain", "select_list"])
def test_rest_example(server: ModelServer, name: str) -> None:
    assert server.rest_address is not None
    connection = http.client.HTTPConnection(server.rest_address, timeout=PATIENCE_S)
    body = (EXAMPLES / f"{name}.request.json").read_text(encoding="utf-8")
    connection.request("POST", "/v1/models/piano:predict", body)
    found = json.loads(connection.getresponse().read())
    connection.close()
    assert _rounded(found) == _rounded(read_json(f"{name}.response"))


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["columns", "rows", "explain", "select_list"])
def test_example_through_the_clients(
    server: ModelServer, name: str, make: Callable[..., Any]
) -> None:
    body, wanted = read_json(f"{name}.request"), read_json(f"{name}.response")
    lists = [unpadded(row) for row in rows(body, "inputs", "instances")]
    client = make(server.address, timeout_s=PATIENCE_S, signature=body["signature_name"])
    try:
        answers = client.rerank_batch(lists)
    finally:
        client.stop()
    for asked, answer, row in zip(
        lists, answers, rows(wanted, "outputs", "predictions"), strict=True
    ):
        assert answer.model_version == VERSION
        assert answer.item_id == asked.item_id
        count = len(asked.item_id)
        assert [*answer.order] == row["order"][:count]
        for output in ("score", "click", "conversion"):
            np.testing.assert_allclose(getattr(answer, output), row[output][:count], **CLOSE)
        for output in ("list_click", "list_conversion"):
            np.testing.assert_allclose(getattr(answer, output), row[output], **CLOSE)


@pytest.mark.parametrize("name", ["columns", "rows", "explain", "select_list"])
def test_example_keeps_the_contract(name: str) -> None:
    """What docs/serving.md says of padding, and of how many orders there are to select from."""
    asked = rows(read_json(f"{name}.request"), "inputs", "instances")
    answers = rows(read_json(f"{name}.response"), "outputs", "predictions")
    assert any("" in row["item_id"] for row in asked)
    for row, answer in zip(asked, answers, strict=True):
        count = sum(item != "" for item in row["item_id"])
        padding = len(row["item_id"]) - count
        assert answer["order"][count:] == [*range(count, count + padding)]
        assert answer["score"][count:] == [float(np.finfo(np.float32).min)] * padding
        assert answer["click"][count:] == answer["conversion"][count:] == [0.0] * padding
        if name == "select_list":
            assert len(answer["list_value"]) == 5
            best = max(answer["list_value"]) - 1e-6
            assert answer["chosen"] == next(
                place for place, value in enumerate(answer["list_value"]) if value > best
            )


def test_example_through_reflection_alone(channel: grpc.Channel) -> None:
    """As grpcurl does it: every message is built from what the server says of itself."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    pool = descriptor_pool.DescriptorPool()
    known: set[str] = set()

    def add(request: reflection_pb2.ServerReflectionRequest) -> None:
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_S)
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(raw)
            if file.name in known:
                continue
            known.add(file.name)
            for name in file.dependency:
                add(reflection_pb2.ServerReflectionRequest(file_by_filename=name))
            pool.Add(file)

    service_name = "tensorflow.serving.PredictionService"
    add(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service_name))
    method = pool.FindServiceByName(service_name).FindMethodByName("Predict")
    make = message_factory.MessageFactory(pool).GetPrototype
    request = read("serving_default.request", make(method.input_type)())
    call = channel.unary_unary(f"/{service_name}/Predict")
    answer = make(method.output_type).FromString(
        call(request.SerializeToString(), timeout=PATIENCE_S)
    )
    wanted = read("serving_default.response", PredictResponse())
    assert [*answer.outputs["order"].int_val] == [*wanted.outputs["order"].int_val]


def read_json(name: str) -> Any:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def rows(body: Mapping[str, Any], columns: str, listed: str) -> list[dict[str, Any]]:
    """The lists of a body of either form."""
    if listed in body:
        return list(body[listed])
    named = body[columns]
    return [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]


def unpadded(row: Mapping[str, Any]) -> SearchList:
    """A list as a log has it: each axis as long as it has items."""
    lengths = {
        along: sum(item != "" for item in row[along]) for along in ("item_id", "history_item_id")
    }

    def cut(name: str, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        axis = "history_item_id" if name.startswith("history_") else "item_id"
        return tuple(value[: lengths[axis]])

    return SearchList.from_columns({name: cut(name, value) for name, value in row.items()})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
