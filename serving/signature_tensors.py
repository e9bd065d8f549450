"""Tensors as they travel: messages to arrays and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from serving.errors import invalid_argument

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


def decode(name: str, tensor: TensorProto) -> np.ndarray[Any, Any]:
    """Turns one input into an array.

    Its shape must have been looked at before: a message of few bytes may ask for any size.

    Raises:
      Refusal: The message contradicts itself.
    """
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
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
