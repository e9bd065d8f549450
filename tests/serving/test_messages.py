"""The client's own messages are TensorFlow Serving's, and nothing else of it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from serving.client import messages
from serving.client.attempts import Retries
from serving.client.model_inputs import Column
from serving.client.search_list import SearchList
from serving.client.session import Session
from serving.client.tensors import DTYPES, read_tensor, write_tensor
from serving.server import ModelServer

ROOT = Path(__file__).parents[2]
REAL = {
    "tensorflow.TensorShapeProto.Dim": tensor_shape_pb2.TensorShapeProto.Dim,
    "tensorflow.TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
    "tensorflow.TensorProto": tensor_pb2.TensorProto,
    "tensorflow.TensorInfo": meta_graph_pb2.TensorInfo,
    "tensorflow.SignatureDef": meta_graph_pb2.SignatureDef,
    "tensorflow.serving.ModelSpec": model_pb2.ModelSpec,
    "tensorflow.serving.PredictRequest": predict_pb2.PredictRequest,
    "tensorflow.serving.PredictResponse": predict_pb2.PredictResponse,
    "tensorflow.serving.SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
    "tensorflow.serving.GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "tensorflow.serving.GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "tensorflow.serving.GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "tensorflow.serving.ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "tensorflow.serving.GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
}


def kind(field: Any) -> tuple[Any, ...]:
    """All of a field that travels, or that decides how a message behaves."""
    of_type = field.TYPE_INT32 if field.type == field.TYPE_ENUM else field.type
    oneof = field.containing_oneof and field.containing_oneof.name
    within = field.message_type and field.message_type.full_name
    return field.number, of_type, field.label, oneof, within


def all_declared() -> set[str]:
    return {
        f"{package}.{name}" for package, declared in messages._SCHEMA.items() for name in declared
    }


def test_every_message_is_compared() -> None:
    assert all_declared() == REAL.keys()


@pytest.mark.parametrize("name", sorted(REAL))
def test_fields_are_the_real_ones(name: str) -> None:
    ours = messages.POOL.FindMessageTypeByName(name)
    real = REAL[name].DESCRIPTOR
    assert ours.fields_by_name
    for field in ours.fields:
        other = real.fields_by_name[field.name]
        assert kind(field) == kind(other), field.full_name
        if field.message_type and field.message_type.GetOptions().map_entry:
            assert other.message_type.GetOptions().map_entry
            assert [kind(each) for each in field.message_type.fields] == [
                kind(each) for each in other.message_type.fields
            ]


def test_methods_are_the_real_ones() -> None:
    files = (prediction_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR)
    services = {f.full_name: f for file in files for f in file.services_by_name.values()}
    for path, response in messages.METHODS.values():
        _, service, method = path.split("/")
        found = services[service].methods_by_name[method]
        assert found.output_type.full_name == response.DESCRIPTOR.full_name


def test_the_number_of_available() -> None:
    assert messages.AVAILABLE == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    status = get_model_status_pb2.ModelVersionStatus
    assert {status.START, status.LOADING} == messages.COMING


def test_types_have_tensorflows_numbers() -> None:
    for number, dtype in DTYPES.items():
        assert np.dtype(tf.as_dtype(number).as_numpy_dtype) == dtype


# --- what is sent ---

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
shapes = nps.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4)
arrays = st.one_of(
    [nps.arrays(dtype, shapes) for dtype in DTYPES.values() if dtype.kind != "O"]
    + [nps.arrays(object, shapes, elements=texts, fill=st.nothing())]
)


@given(array=arrays)
def test_tensorflow_reads_what_is_written(array: np.ndarray) -> None:
    ours = messages.TensorProto()
    write_tensor(array, ours)
    tensor = tensor_pb2.TensorProto.FromString(ours.SerializeToString())
    read = tf.make_ndarray(tensor)
    if array.dtype.kind == "O":
        read = np.vectorize(bytes.decode, otypes=[object])(read)
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    np.testing.assert_array_equal(read, array)
    assert tensor.SerializeToString(deterministic=True) == ours.SerializeToString(
        deterministic=True
    )


numbers = st.one_of(
    nps.arrays(DTYPES[number], nps.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4))
    for number in (1, 2, 3, 9)
)


@given(array=numbers, spread=st.booleans())
def test_what_tensorflow_writes_is_read(array: np.ndarray, spread: bool) -> None:
    tensor = tf.make_tensor_proto(array)
    if spread:  # value by value, as TensorFlow Serving answers
        field = {1: "float_val", 2: "double_val", 3: "int_val", 9: "int64_val"}[tensor.dtype]
        tensor.tensor_content = b""
        tensor.ClearField(field)
        getattr(tensor, field).extend(array.ravel().tolist())
    read = read_tensor(messages.TensorProto.FromString(tensor.SerializeToString()))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_one_value_may_stand_for_all() -> None:
    tensor = messages.TensorProto(dtype=1, float_val=[0.5, 2.0])
    tensor.tensor_shape.dim.add(size=4)
    np.testing.assert_array_equal(read_tensor(tensor), [0.5, 2, 2, 2])


@pytest.mark.parametrize(
    "tensor",
    [
        messages.TensorProto(),
        messages.TensorProto(dtype=7, string_val=[b"a"]),
        messages.TensorProto(dtype=1, float_val=[1.0, 2.0]),
        messages.TensorProto(dtype=1, tensor_content=b"123"),
    ],
    ids=["nothing", "text", "too many", "cut off"],
)
def test_what_is_no_numbers(tensor: Any) -> None:
    with pytest.raises(ValueError):
        read_tensor(tensor)


COLUMNS = {
    "query": Column("query", np.dtype(object), 1),
    "timestamp": Column("timestamp", np.dtype(np.int64), 1),
    "item_id": Column("item_id", np.dtype(object), 2),
    "initial_score": Column("initial_score", np.dtype(np.float32), 2),
    "history_item_id": Column("history_item_id", np.dtype(object), 2),
}
ids = texts.filter(bool)


@st.composite
def search_lists(draw: st.DrawFn) -> SearchList:
    items = draw(st.lists(ids, min_size=1, max_size=4))
    scores = st.floats(-9, 9, width=32)
    return SearchList(
        query=draw(texts),
        user_id=draw(texts),
        item_id=items,
        timestamp=draw(st.integers(0, 2**40)),
        initial_score=draw(st.lists(scores, min_size=len(items), max_size=len(items))),
        history_item_id=draw(st.lists(ids, max_size=3)),
    )


@given(asked=st.lists(search_lists(), min_size=1, max_size=3))
def test_a_request_is_the_one_that_real_stubs_would_send(asked: list[SearchList]) -> None:
    session = Session(
        *("nowhere", "piano", 1.0, Retries()),
        signature="serving_default",
        pad_to=(1, 1),
        first_stage_on_request_error=False,
    )
    ours = session._request(asked, COLUMNS)
    sent = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    width = max(len(each.item_id) for each in asked)
    past = max(1, *(len(each.history_item_id) for each in asked))
    real = predict_pb2.PredictRequest(output_filter=ours.output_filter)
    real.model_spec.name, real.model_spec.signature_name = "piano", "serving_default"
    arrays = {
        "query": np.array([each.query for each in asked], object),
        "timestamp": np.array([each.timestamp for each in asked], np.int64),
        "item_id": np.array([[*each.item_id, *[""] * width][:width] for each in asked], object),
        "initial_score": np.array(
            [[*(each.initial_score or ()), *[0.0] * width][:width] for each in asked], np.float32
        ),
        "history_item_id": np.array(
            [[*each.history_item_id, *[""] * past][:past] for each in asked], object
        ),
    }
    for name, array in arrays.items():
        real.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        # A tensor of one number is written in another of the ways that say the same.
        if array.size == 1 and array.dtype.kind != "O":
            sent.inputs[name].CopyFrom(tf.make_tensor_proto(tf.make_ndarray(sent.inputs[name])))
    assert sent == real


# --- what is not imported ---

RERANKING = """
    import asyncio
    import sys

    from serving.client.aio import AsyncRerankClient
    from serving.client import RerankClient, SearchList

    address, beside = sys.argv[1:]
    if beside == "before":
        import tensorflow
        import tensorflow_serving.apis.predict_pb2
    asked = SearchList(
        "so what", "ada", ["a", "b"], initial_score=[0.1, 0.2],
        features={"item_artist": ["x", "y"], "item_popularity": [1.0, 2.0], "user_country": "IT"},
    )
    with RerankClient(address, timeout_s=60) as client:
        client.wait_until_available(60)
        print(client.rerank(asked).ranking)

    async def again():
        async with AsyncRerankClient(address, timeout_s=60) as client:
            print((await client.rank(asked)).ranking)

    asyncio.run(again())
    if beside == "never":
        heavy = {"tensorflow", "tensorflow_serving", "keras", "pyarrow", "pandas", "piano_tf"}
        print(sorted(heavy & sys.modules.keys()))
    if beside == "after":
        import tensorflow
        import tensorflow_serving.apis.predict_pb2
"""


@pytest.mark.parametrize("beside", ["never", "before", "after"])
def test_reranking_needs_no_tensorflow_and_bears_it(server: ModelServer, beside: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RERANKING), server.address, beside],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = ["('b', 'a')", "('b', 'a')", *["[]"][: beside == "never"]]
    assert done.stdout.splitlines() == said
