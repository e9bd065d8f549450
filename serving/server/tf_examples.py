"""Search lists as serialized tf.Examples, held to what padded columns are held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.columns import as_long_as, first_unequal
from serving.server.errors import exhausted, invalid_argument
from serving.server.limits import Limits
from serving.server.list_signatures import Shapes, check_amount, check_shapes
from serving.server.parsing import parse_whole

EXAMPLES = "examples"


def is_about_examples(signature: SignatureDef) -> bool:
    """Whether a signature takes nothing but serialized tf.Examples, [B]."""
    if [*signature.inputs] != [EXAMPLES]:
        return False
    info = signature.inputs[EXAMPLES]
    dims = info.tensor_shape.dim
    return info.dtype == types_pb2.DT_STRING and len(dims) == 1 and dims[0].size == -1


def check_count(shapes: Shapes, limits: Limits) -> None:
    """Holds the number of examples to the limit of lists.

    Args:
      shapes: Of the inputs.
      limits: Of the server.

    Raises:
      Refusal: There is none, or there are too many.
    """
    (rows,) = shapes[EXAMPLES]
    if not rows:
        raise invalid_argument(f"input {EXAMPLES} has shape (0,), expected a list or more")
    if rows > limits.lists:
        raise exhausted(
            "lists", f"input {EXAMPLES} has {rows} lists, expected at most {limits.lists}"
        )


def check_examples(
    serialized: np.ndarray[Any, Any], columns: Mapping[str, int], limits: Limits
) -> None:
    """Reads examples and holds the padded columns that they will make to the limits.

    Args:
      serialized: [B] tf.Examples.
      columns: Name -> 1 if it has one value per list, 2 if one per candidate or past action. None
        are known of a model without a signature of padded columns; then no example may have a
        feature longer than a list.
      limits: Of the server.

    Raises:
      Refusal: One is no tf.Example, its columns contradict each other, or there is too much of one.
    """
    rows = len(serialized)
    longest: dict[str, int] = {}
    for row, one in enumerate(serialized):
        example = Example()
        try:
            parse_whole(example, one)
        except DecodeError as error:
            raise invalid_argument(f"input {EXAMPLES} holds no tf.Example at [{row}]") from error
        features = example.features.feature
        lengths = {}
        # Reading a protobuf map by a missing key would add the key: hence `in`.
        for name in columns or sorted(features):
            values = _values(features[name]) if name in features else ()
            if isinstance(values, np.ndarray) and not np.isfinite(values).all():
                place = int(np.argmin(np.isfinite(values)))
                raise invalid_argument(
                    f"input {EXAMPLES} [{row}]: column {name} holds {values[place]} at [{place}], "
                    "expected finite numbers"
                )
            if columns.get(name, 2) == 2:
                lengths[name] = len(values)
                longest[name] = max(longest.get(name, 0), len(values))
        unequal = first_unequal(lengths) if columns else None
        if unequal:
            name, other = unequal
            raise invalid_argument(
                f"input {EXAMPLES} [{row}]: column {name} has {lengths[name]} values, "
                f"{as_long_as(other, lengths[other])}"
            )
    if columns:
        shapes = {
            name: (rows,) if rank == 1 else (rows, longest[name]) for name, rank in columns.items()
        }
        check_shapes(shapes, limits)
    else:
        shapes = {name: (rows, length) for name, length in longest.items()}
        for name, length in longest.items():
            if length > limits.list_length:
                raise exhausted(
                    "list_length",
                    f"input {EXAMPLES}: column {name} has {length} values, expected at most "
                    f"{limits.list_length}",
                )
    check_amount(shapes, limits)


def _values(feature: Any) -> Any:
    """The values of one column; floats as an array."""
    kind = feature.WhichOneof("kind")
    if kind is None:
        return ()
    values = getattr(feature, kind).value
    return np.array(values, np.float32) if kind == "float_list" else values
