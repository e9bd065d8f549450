"""Arrays as TensorFlow's TensorProto and back, without TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np

_TEXT = 7
# The numbers of tensorflow.DataType that columns and answers have. Text is an array of objects.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
    _TEXT: np.dtype(object),
    9: np.dtype(np.int64),
    19: np.dtype(np.float16),
}
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_VALUES = {1: "float_val", 2: "double_val", 3: "int_val", 9: "int64_val"}


def write_tensor(array: np.ndarray[Any, Any], tensor: Any) -> None:
    """Writes an array of numbers or text into an empty TensorProto.

    Args:
      array: Of a type in `DTYPES`.
      tensor: The message to fill.
    """
    tensor.dtype = _NUMBERS[array.dtype]
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if tensor.dtype == _TEXT:
        tensor.string_val.extend([text.encode() for text in array.ravel().tolist()])
    else:
        tensor.tensor_content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def read_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    """Reads a TensorProto of numbers.

    Args:
      tensor: As a server sends it: its numbers as bytes or one by one, where the last one stands
        for all that do not come.

    Raises:
      ValueError: It holds something else, or not what its shape says.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype not in _VALUES:
        raise ValueError(f"a tensor of type {tensor.dtype}, expected numbers")
    dtype = DTYPES[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<")).reshape(shape)
    values = np.array(getattr(tensor, _VALUES[tensor.dtype]), dtype)
    missing = int(np.prod(shape)) - len(values)
    if missing > 0:
        values = np.pad(values, (0, missing), mode="edge" if len(values) else "constant")
    return values.reshape(shape)
