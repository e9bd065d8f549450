"""Tensors as JSON, in the two formats of TensorFlow Serving's REST API: by row and by column."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.server.errors import Refusal, invalid_argument
from serving.server.signature import Signature
from serving.server.tensors import Kind

Json = dict[str, Any]

_FORMATS = ("instances", "inputs")
_B64 = "b64"
# NumPy's.
_DEEPEST = 32
_UNSUPPORTED = {tf.float16, tf.bfloat16, tf.uint16}


def parse(body: bytes) -> Json:
    """Reads the body of a request, which names a format and perhaps a signature.

    Raises:
      Refusal: It is no such body.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(parsed, dict):
        raise invalid_argument("JSON Value is not an object")
    signature_name = parsed.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid_argument("'signature_name' key must be a string")
    if any("\ud800" <= character <= "\udfff" for character in signature_name):
        raise invalid_argument("'signature_name' holds half a surrogate pair, expected text")
    if len([name for name in _FORMATS if name in parsed]) != 1:
        raise invalid_argument("Request must have exactly one of the keys 'instances' and 'inputs'")
    return parsed


def to_request(parsed: Json, signature: Signature) -> PredictRequest:
    """Turns a body into the request that it stands for.

    Args:
      parsed: See `parse`.
      signature: That it is for.

    Raises:
      Refusal: It does not fit the signature.
    """
    columns = (
        _by_row(parsed["instances"], signature)
        if "instances" in parsed
        else _by_column(parsed["inputs"], signature)
    )
    request = PredictRequest()
    for name, value in columns.items():
        kind = signature.inputs[name]
        request.inputs[name].CopyFrom(
            tf.make_tensor_proto(_array(name, value, kind), dtype=kind.dtype)
        )
    return request


def to_json(response: PredictResponse, by_row: bool) -> Json:
    """Turns an answer into the body that the format asks for.

    Raises:
      Refusal: The outputs cannot be told by row, or have a type that JSON lacks.
    """
    arrays = {name: _values(name, tensor) for name, tensor in response.outputs.items()}
    if not by_row:
        columns = {name: array.tolist() for name, array in arrays.items()}
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()), {})}
    rows = {array.shape[0] if array.ndim else -1 for array in arrays.values()}
    if len(rows) != 1 or -1 in rows:
        raise invalid_argument(
            "the outputs cannot be told by row, since they differ in their first dimension; "
            "ask with 'inputs' instead of 'instances'"
        )
    lists = {name: array.tolist() for name, array in arrays.items()}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    return {
        "predictions": [
            {name: values[row] for name, values in lists.items()} for row in range(rows.pop())
        ]
    }


def _by_row(instances: Any, signature: Signature) -> Mapping[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise invalid_argument("'instances' must be a list of one instance or more")
    names = {*signature.inputs}
    if len(names) == 1 and not any(_is_named(one, names) for one in instances):
        return {names.pop(): instances}
    for place, one in enumerate(instances):
        if not isinstance(one, dict):
            raise invalid_argument(
                f"instance {place} is of type {type(one).__name__}, expected an object with "
                f"{sorted(names)}"
            )
        if missing := names - one.keys():
            raise invalid_argument(f"instance {place} lacks the inputs {sorted(missing)}")
        if extra := one.keys() - names:
            raise invalid_argument(
                f"instance {place} has the inputs {sorted(extra)}, of which the signature has none"
            )
    return {name: [one[name] for one in instances] for name in names}


def _by_column(inputs: Any, signature: Signature) -> Mapping[str, Any]:
    names = {*signature.inputs}
    if len(names) == 1 and not _is_named(inputs, names):
        return {names.pop(): inputs}
    if not isinstance(inputs, dict):
        raise invalid_argument(f"'inputs' must be an object with {sorted(names)}")
    for name in sorted(names):
        if name not in inputs:
            raise invalid_argument(f"input {name} is missing, expected {sorted(names)}")
    return {name: inputs[name] for name in names}


def _is_named(value: Any, names: set[str]) -> bool:
    return isinstance(value, dict) and value.keys() == names


def _array(name: str, value: Any, kind: Kind) -> np.ndarray[Any, Any]:
    """Nested lists to an array, each value held to the input's type."""
    dtype = tf.as_dtype(kind.dtype)
    if dtype in _UNSUPPORTED:
        raise _unsupported("input", name, dtype)
    flat: list[Any] = []
    shape: list[int] = []
    level = [value]
    rank = None if kind.shape is None else len(kind.shape)
    while level and isinstance(level[0], list):
        if len(shape) == (_DEEPEST if rank is None else rank):
            raise invalid_argument(
                f"input {name} holds lists nested deeper than {len(shape)}, expected the shape "
                f"{kind}"
            )
        length = len(level[0])
        if not all(isinstance(one, list) and len(one) == length for one in level):
            raise invalid_argument(f"input {name} holds lists of different lengths")
        shape.append(length)
        level = [inner for one in level for inner in one]
    if any(isinstance(one, list) for one in level):
        raise invalid_argument(f"input {name} holds lists of different depths")
    flat = [_value(name, one, dtype) for one in level]
    array = np.empty(len(flat), dtype.as_numpy_dtype)
    # A number beyond float32 becomes infinite, which is refused where floats are checked.
    with np.errstate(over="ignore"):
        array[:] = flat
    return array.reshape(shape)


def _value(name: str, value: Any, dtype: tf.DType) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, dict) and [*value] == [_B64] and isinstance(value[_B64], str):
            try:
                return base64.b64decode(value[_B64], validate=True)
            except (binascii.Error, ValueError) as error:
                raise invalid_argument(f"input {name} holds no base64: {error}") from error
        expected = "text"
    elif dtype == tf.bool:
        if isinstance(value, bool):
            return value
        expected = "true or false"
    elif dtype.is_floating:
        if is_number:
            return _float(value)
        expected = "a number"
    elif dtype.is_integer:
        if is_number and isinstance(value, int) and dtype.min <= value <= dtype.max:
            return value
        expected = f"an integer of {dtype.name}"
    else:
        raise _unsupported("input", name, dtype)
    # An object may be nested deeper than can be told.
    told = "an object" if isinstance(value, dict) else json.dumps(value)[:80]
    raise invalid_argument(f"input {name} holds {told}, expected {expected}")


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _values(name: str, tensor: Any) -> np.ndarray[Any, Any]:
    array = tf.make_ndarray(tensor)
    if tf.as_dtype(tensor.dtype) in _UNSUPPORTED:
        raise _unsupported("output", name, tf.as_dtype(tensor.dtype))
    if array.dtype != object:
        return array
    # As the real server, which goes by the name: bytes that are no text cannot be told otherwise.
    told = _as_b64 if name.endswith("_bytes") else lambda value: value.decode("utf-8", "replace")
    return np.array([told(value) for value in array.ravel()], object).reshape(array.shape)


def _as_b64(value: bytes) -> dict[str, str]:
    return {_B64: base64.b64encode(value).decode("ascii")}


def _unsupported(side: str, name: str, dtype: tf.DType) -> Refusal:
    return Refusal(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{side} {name} has dtype {dtype.name}, which the REST API does not know",
    )
