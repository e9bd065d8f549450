"""The documented requests get the documented answers, through stubs that know no client of ours."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.server import BatchingOptions, ModelServer, ServerOptions

EXAMPLES = Path(__file__).parents[2] / "serving" / "examples"
PATIENCE_S = 120.0
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
    wanted = json.loads((EXAMPLES / f"{name}.response.json").read_text(encoding="utf-8"))
    assert _rounded(found) == _rounded(wanted)


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


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
