"""Tensors as they travel: messages to arrays and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from serving.server.errors import invalid_argument

# Outputs travel in the typed fields of a TensorProto, as TensorFlow Serving sends them, since
# clients may read `float_val` directly.
_VALUE_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}

# Fields that hold the values of other types.
_RECEIVED_FIELDS = {
    **_VALUE_FIELDS,
    **dict.fromkeys(
        (
            *(types_pb2.DT_INT8, types_pb2.DT_INT16, types_pb2.DT_UINT8, types_pb2.DT_UINT16),
            *(types_pb2.DT_QINT8, types_pb2.DT_QINT16, types_pb2.DT_QINT32),
            *(types_pb2.DT_QUINT8, types_pb2.DT_QUINT16, types_pb2.DT_INT4, types_pb2.DT_UINT4),
        ),
        "int_val",
    ),
    **dict.fromkeys((types_pb2.DT_HALF, types_pb2.DT_BFLOAT16), "half_val"),
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    # Two numbers each.
    types_pb2.DT_COMPLEX64: "scomplex_val",
    types_pb2.DT_COMPLEX128: "dcomplex_val",
}
_COMPLEX = (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128)


def shape_of(name: str, tensor: TensorProto, info: TensorInfo) -> tuple[int, ...]:
    """Returns the shape of one input, held to the dtype and the static shape of its signature.

    Raises:
      Refusal: It does not fit.
    """
    if tensor.dtype != info.dtype:
        raise invalid_argument(
            f"input {name} has dtype {_dtype(tensor.dtype)}, expected {_dtype(info.dtype)}"
        )
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if any(size < -1 for size in sizes):
        raise invalid_argument(f"input {name} cannot be parsed: it has a dimension below 0")
    fixed = info.tensor_shape.dim
    if (
        tensor.tensor_shape.unknown_rank
        or -1 in sizes
        or not (
            info.tensor_shape.unknown_rank
            or (
                len(sizes) == len(fixed)
                and all(dim.size in (-1, size) for dim, size in zip(fixed, sizes, strict=True))
            )
        )
    ):
        raise invalid_argument(
            f"input {name} has shape {tf.TensorShape(tensor.tensor_shape)}, "
            f"expected {tf.TensorShape(info.tensor_shape)}"
        )
    return tuple(sizes)


def require_whole(name: str, tensor: TensorProto, shape: tuple[int, ...]) -> None:
    """Refuses a tensor that brings fewer values than its shape has.

    TensorFlow would repeat the last one, so that a message of few bytes could ask for any memory.

    Raises:
      Refusal: Values are missing.
    """
    if tensor.tensor_content:
        # Bytes that do not fill the shape exactly are refused where they are read.
        return
    expected = math.prod(shape)
    field = _RECEIVED_FIELDS.get(tensor.dtype)
    # Of a type that is not known here, nothing may be repeated either.
    found = len(getattr(tensor, field)) if field else 0
    if tensor.dtype in _COMPLEX:
        found //= 2
    if found < expected:
        raise invalid_argument(
            f"input {name} brings {found} values, expected {expected} as its shape {shape} has"
        )


def decode(name: str, tensor: TensorProto) -> np.ndarray[Any, Any]:
    """Turns one input into an array.

    Its shape must have been looked at before, and `require_whole` asked.

    Raises:
      Refusal: The message contradicts itself.
    """
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid_argument(f"input {name} cannot be parsed: {error}") from error


def encode(value: Any, dtype: int) -> TensorProto:
    """Turns one output, an array or a scalar, into its message."""
    array = np.asarray(value, dtype=tf.as_dtype(dtype).as_numpy_dtype)
    if dtype not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    tensor = TensorProto(dtype=dtype, tensor_shape=tf.TensorShape(array.shape).as_proto())
    getattr(tensor, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())
    return tensor


def _dtype(number: int) -> str:
    # A client may send a number that the enum does not know.
    return types_pb2.DataType.Name(number) if number in types_pb2.DataType.values() else str(number)
