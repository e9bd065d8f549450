"""What fuzz_server.py sends over gRPC: good requests, good ones that were damaged, and noise."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_METHODS = (_PREDICT,) * 8 + (_METADATA, _STATUS)
# Those that are there are asked alike.
_SIGNATURES = ("serving_default", "explain", "select_list", "serve_examples")
# What a caller at fault may be told; anything else is the server's fault.
EXPECTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
PATIENCE_S = 60.0
_TOLERANCE = 1e-4


class GrpcFuzzer:
    """Makes requests of a model about lists and judges the answers; of one thread.

    Args:
      address: Of the server.
      seed: What is made depends on it alone.
    """

    def __init__(self, address: str, seed: int) -> None:
        self._random = random.Random(seed)
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(address, options)
        self._calls = {name: self._channel.unary_unary(name) for name in {*_METHODS}}
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "piano"
        answer = self._calls[_METADATA](request.SerializeToString(), timeout=PATIENCE_S)
        signatures = SignatureDefMap()
        GetModelMetadataResponse.FromString(answer).metadata["signature_def"].Unpack(signatures)
        self._good = []
        for good in good_requests(signatures.signature_def, seed):
            whole = good.SerializeToString()
            self._good.append((whole, self._outputs(self._ask(_PREDICT, whole))))

    def once(self) -> tuple[str, str | None]:
        """Sends one request; returns the status of its answer, and what should not have been."""
        kind = self._random.random()
        whole, first = self._random.choice(self._good)
        if kind < 0.1:
            method, received = _PREDICT, whole
        elif kind < 0.8:
            request = PredictRequest.FromString(whole)
            for _ in range(self._random.choice([1, 1, 1, 2, 5])):
                self._random.choice(_DAMAGES)(self._random, request)
            method, received = _PREDICT, request.SerializeToString()
        else:
            method = self._random.choice(_METHODS)
            received = _noise(self._random, whole)
        try:
            answer = self._ask(method, received)
        except grpc.RpcError as error:
            status = error.code().name
            if kind < 0.1 or error.code() not in EXPECTED or not error.details():
                return status, f"{status}: {error.details()!r} to {received!r:.500}"
            return status, None
        if kind < 0.1 and not is_same_answer(self._outputs(answer), first):
            return "OK", "a good request was answered otherwise than at first"
        return "OK", None

    def close(self) -> None:
        """Hangs up."""
        self._channel.close()

    def _ask(self, method: str, request: bytes) -> bytes:
        return self._calls[method](request, timeout=PATIENCE_S)

    def _outputs(self, answer: bytes) -> dict[str, np.ndarray[Any, Any]]:
        response = PredictResponse.FromString(answer)
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def is_same_answer(found: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether an answer is the first one again, up to what rounding does.

    Args:
      found: Arrays by output.
      first: Likewise.
    """
    return found.keys() == first.keys() and all(
        _is_same_output(name, found[name], first) for name in first
    )


def _is_same_output(name: str, values: Any, first: Mapping[str, Any]) -> bool:
    wanted = first[name]
    if values.shape != wanted.shape:
        return False
    if wanted.dtype.kind == "f":
        return np.allclose(values, wanted, atol=_TOLERANCE)
    if np.array_equal(values, wanted):
        return True
    # Candidates whose scores are as good as equal may change places.
    if name != "order" or not np.array_equal(np.sort(values), np.sort(wanted)):
        return False
    scores = (np.take_along_axis(first["score"], order, axis=1) for order in (values, wanted))
    return np.allclose(*scores, atol=_TOLERANCE)


def good_requests(signatures: Mapping[str, SignatureDef], seed: int) -> Iterator[PredictRequest]:
    """A `good_request` of each of a model's signatures."""
    columns = good_request(signatures["serving_default"], seed)
    for name in _SIGNATURES:
        if name not in signatures:
            continue
        request = PredictRequest.FromString(columns.SerializeToString())
        request.model_spec.signature_name = name
        if name == "serve_examples":
            examples = tf.make_tensor_proto([*_examples(request)])
            request.inputs.clear()
            request.inputs["examples"].CopyFrom(examples)
        yield request


def _examples(columns: PredictRequest) -> Iterator[bytes]:
    """The lists of a `good_request` as serialized tf.Examples, which have no padding."""
    arrays = {name: tf.make_ndarray(tensor) for name, tensor in columns.inputs.items()}
    for row in range(2):
        example = tf.train.Example()
        for name, array in arrays.items():
            values = array[row, : -1 if row == 1 else None] if array.ndim == 2 else array[[row]]
            field = {"O": "bytes_list", "i": "int64_list", "f": "float_list"}[values.dtype.kind]
            getattr(example.features.feature[name], field).value.extend(values)
        yield example.SerializeToString()


def good_request(signature: SignatureDef, seed: int) -> PredictRequest:
    """A request of two lists, one of them with padding, that any model about lists answers."""
    draw = np.random.default_rng(seed)
    request = PredictRequest()
    request.model_spec.name = "piano"
    for name, info in signature.inputs.items():
        width = 3 if name.startswith("history_") else 5
        shape = (2, width)[: len(info.tensor_shape.dim)]
        dtype = tf.as_dtype(info.dtype)
        if dtype == tf.string:
            values = draw.choice([b"a", b"b", b"c"], shape).astype(object)
        else:
            values = draw.random(shape).astype(dtype.as_numpy_dtype)
        if len(shape) == 2:
            values[1, -1] = b"" if dtype == tf.string else 0
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype=dtype))
    return request


def _noise(draw: random.Random, good: bytes) -> bytes:
    kind = draw.randrange(4)
    if kind == 0:
        return draw.randbytes(draw.randrange(200))
    if kind == 1:
        return good[: draw.randrange(len(good) + 1)]
    place = draw.randrange(len(good) + 1)
    piece = draw.randbytes(draw.randrange(1, 9))
    return good[:place] + piece + good[place + (len(piece) if kind == 2 else 0) :]


def _tensor(draw: random.Random, request: PredictRequest) -> TensorProto:
    """One of the request's tensors; a new one if there is none left."""
    name = draw.choice(sorted(request.inputs) or ["item_id"])
    return request.inputs[name]


def _drop_input(draw: random.Random, request: PredictRequest) -> None:
    request.inputs.pop(draw.choice(sorted(request.inputs)), None) if request.inputs else None


def _add_input(draw: random.Random, request: PredictRequest) -> None:
    request.inputs[draw.choice(["", "mood", "x" * 3000, "ø"])].CopyFrom(_tensor(draw, request))


def _swap_inputs(draw: random.Random, request: PredictRequest) -> None:
    other = TensorProto.FromString(_tensor(draw, request).SerializeToString())
    _tensor(draw, request).CopyFrom(other)


def _dtype(draw: random.Random, request: PredictRequest) -> None:
    _tensor(draw, request).dtype = draw.choice([*range(30), 101, 2**31 - 1])


def _size(draw: random.Random, request: PredictRequest) -> None:
    dims = _tensor(draw, request).tensor_shape.dim
    if dims:
        sizes = [-(2**63), -2, -1, 0, 1, 2, 3, 7, 1001, 2**20, 2**31, 2**63 - 1]
        dims[draw.randrange(len(dims))].size = draw.choice(sizes)


def _all_sizes(draw: random.Random, request: PredictRequest) -> None:
    """Sizes that agree with each other, as do those of a request that is only too large."""
    rows, width = draw.choice([(0, 5), (2, 0), (2, 1001), (10**6, 5), (300, 500), (1, 40), (0, 0)])
    for name in request.inputs:
        dims = request.inputs[name].tensor_shape.dim
        for dim, size in zip(dims, (rows, width)):  # noqa: B905
            dim.size = size


def _rank(draw: random.Random, request: PredictRequest) -> None:
    shape = _tensor(draw, request).tensor_shape
    kind = draw.randrange(3)
    if kind == 0:
        shape.dim.add(size=draw.choice([1, 2, 254]))
    elif kind == 1 and shape.dim:
        del shape.dim[-1]
    else:
        shape.unknown_rank = True


def _content(draw: random.Random, request: PredictRequest) -> None:
    _tensor(draw, request).tensor_content = draw.randbytes(draw.choice([0, 1, 7, 8, 40, 80]))


def _values(draw: random.Random, request: PredictRequest) -> None:
    tensor = _tensor(draw, request)
    field = draw.choice(["float_val", "int64_val", "string_val", "bool_val", "double_val"])
    values: list[Any] = {
        "float_val": [float("nan"), float("inf"), -0.0, 1e38, 1e-45],
        "double_val": [float("nan"), 1e308],
        "int64_val": [-(2**63), -1, 0, 2**63 - 1],
        "string_val": [b"", b"\xff\xfe", b"\0", b"x" * 5000, "æ".encode()],
        "bool_val": [True, False],
    }[field]
    if draw.random() < 0.5:
        tensor.tensor_content = b""
    getattr(tensor, field).extend(draw.choices(values, k=draw.choice([1, 2, 10, 100])))


def _text(draw: random.Random, request: PredictRequest) -> None:
    """One of a tensor's strings, which may be a whole tf.Example."""
    texts = _tensor(draw, request).string_val
    if texts:
        place = draw.randrange(len(texts))
        texts[place] = _noise(draw, texts[place])


def _fewer_values(draw: random.Random, request: PredictRequest) -> None:
    tensor = _tensor(draw, request)
    for field, values in tensor.ListFields():
        if field.name.endswith("_val"):
            del values[draw.randrange(len(values)) :]


def _spec(draw: random.Random, request: PredictRequest) -> None:
    kind = draw.randrange(6)
    spec = request.model_spec
    if kind == 0:
        spec.name = draw.choice(["", "m", "x" * 3000])
    elif kind == 1:
        spec.version.value = draw.choice([-1, 0, 7, 2**63 - 1])
    elif kind == 2:
        spec.version_label = draw.choice(["", "stable"])
    elif kind == 3:
        spec.signature_name = draw.choice([*_SIGNATURES, "", "x" * 3000])
    elif kind == 4:
        request.ClearField("model_spec")
    else:
        request.output_filter.extend(draw.choices(["order", "score", "", "mood"], k=2))


_DAMAGES: tuple[Callable[[random.Random, PredictRequest], None], ...] = (
    _drop_input,
    _add_input,
    _swap_inputs,
    _dtype,
    _size,
    _all_sizes,
    _rank,
    _content,
    _values,
    _text,
    _fewer_values,
    _spec,
)
