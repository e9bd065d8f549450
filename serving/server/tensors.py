"""Tensors as they travel: messages to arrays and back."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
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

# As the bytes of `tensor_content` are to be read.
_OF_CONTENT = {
    number: np.dtype(dtype).newbyteorder("<")
    for number, dtype in (
        (types_pb2.DT_FLOAT, np.float32),
        (types_pb2.DT_DOUBLE, np.float64),
        (types_pb2.DT_INT32, np.int32),
        (types_pb2.DT_INT64, np.int64),
    )
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a signature says of a tensor.

    Attributes:
      dtype: Number of its type.
      shape: Its sizes, -1 for any; None for any rank.
    """

    dtype: int
    shape: tuple[int, ...] | None

    @classmethod
    def of(cls, info: TensorInfo) -> Kind:
        """Reads a signature's own words."""
        shape = info.tensor_shape
        return cls(info.dtype, None if shape.unknown_rank else _sizes(shape))

    def fits(self, sizes: tuple[int, ...]) -> bool:
        """Whether a tensor may have these sizes."""
        if self.shape is None:
            return True
        if len(sizes) != len(self.shape):
            return False
        pairs = zip(self.shape, sizes, strict=True)
        return all([wanted in (-1, size) for wanted, size in pairs])

    def __str__(self) -> str:
        if self.shape is None:
            return "<unknown>"
        return str(tf.TensorShape([None if size == -1 else size for size in self.shape]))


def shape_of(name: str, tensor: TensorProto, kind: Kind) -> tuple[int, ...]:
    """Returns the shape of one input, held to the dtype and the static shape of its signature.

    Raises:
      Refusal: It does not fit.
    """
    if tensor.dtype != kind.dtype:
        raise invalid_argument(
            f"input {name} has dtype {_dtype(tensor.dtype)}, expected {_dtype(kind.dtype)}"
        )
    shape = tensor.tensor_shape
    sizes = _sizes(shape)
    lowest = min(sizes, default=0)
    if lowest < -1:
        raise invalid_argument(f"input {name} cannot be parsed: it has a dimension below 0")
    if lowest == -1 or shape.unknown_rank or not kind.fits(sizes):
        raise invalid_argument(f"input {name} has shape {tf.TensorShape(shape)}, expected {kind}")
    return sizes


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


def decode(name: str, tensor: TensorProto, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Turns one input into an array, which may not be written to.

    Args:
      name: Of the input.
      tensor: Of which `require_whole` has been asked.
      shape: Of the tensor.

    Raises:
      Refusal: The message contradicts itself.
    """
    try:
        # What nearly all requests are made of; TensorFlow's own way takes three times as long.
        if tensor.dtype == types_pb2.DT_STRING and not tensor.tensor_content:
            values = list(tensor.string_val)
            if len(values) == math.prod(shape):
                array = np.empty(len(values), object)
                array[:] = values
                return array.reshape(shape)
        elif tensor.dtype in _OF_CONTENT and tensor.tensor_content:
            return np.frombuffer(tensor.tensor_content, _OF_CONTENT[tensor.dtype]).reshape(shape)
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid_argument(f"input {name} cannot be parsed: {error}") from error


def encode(value: Any, dtype: int, tensor: TensorProto) -> None:
    """Writes one output, an array or a scalar, into an empty message."""
    array = np.asarray(value, dtype=tf.as_dtype(dtype).as_numpy_dtype)
    if dtype not in _VALUE_FIELDS:
        tensor.CopyFrom(tf.make_tensor_proto(array))
        return
    tensor.dtype = dtype
    # Of a scalar too, the shape is there and not merely left out.
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    getattr(tensor, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())


def _sizes(shape: TensorShapeProto) -> tuple[int, ...]:
    return tuple([dim.size for dim in shape.dim])


def _dtype(number: int) -> str:
    # A client may send a number that the enum does not know.
    return types_pb2.DataType.Name(number) if number in types_pb2.DataType.values() else str(number)
