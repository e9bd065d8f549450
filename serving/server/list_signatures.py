"""Signatures about search lists: how a request's tensors fit each other and the limits.

Inputs and outputs alike are named as `serving.columns` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from serving.columns import ITEMS, RANKS, as_long_as, first_unequal
from serving.server.errors import exhausted, invalid_argument
from serving.server.limits import Limits

# Runs the model once for each candidate.
EXPLAIN = "explain"

Shapes = Mapping[str, tuple[int, ...]]


def is_about_lists(signature: SignatureDef) -> bool:
    """Whether a signature takes the columns of search lists as padded tensors."""
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    return (
        ITEMS in signature.inputs
        and _free_rank(signature.inputs[ITEMS]) == 2
        and all(_free_rank(info) in RANKS for info in tensors)
    )


def check_shapes(shapes: Shapes, limits: Limits) -> None:
    """Holds the inputs of one request to each other and to the limits.

    Args:
      shapes: Input name -> (lists,) or (lists, length).
      limits: Of the server.

    Raises:
      Refusal: Two inputs contradict each other, or there is too much of one.
    """
    rows, items = shapes[ITEMS]
    for name, shape in sorted(shapes.items()):
        if shape[0] != rows:
            raise invalid_argument(f"input {name} has {shape[0]} lists, {as_long_as(ITEMS, rows)}")
    lengths = {name: shape[1] for name, shape in sorted(shapes.items()) if len(shape) == 2}
    unequal = first_unequal(lengths)
    if unequal:
        name, other = unequal
        raise invalid_argument(
            f"input {name} has lists of {lengths[name]}, {as_long_as(other, lengths[other])}"
        )
    if not rows or not items:
        raise invalid_argument(
            f"input {ITEMS} has shape ({rows}, {items}), expected a list and a candidate or more"
        )
    if rows > limits.lists:
        raise exhausted(f"input {ITEMS} has {rows} lists, expected at most {limits.lists}")
    # The candidates first, and of columns that are as long the first one.
    longest = max([ITEMS, *lengths], key=lambda name: lengths[name])
    if lengths[longest] > limits.list_length:
        raise exhausted(
            f"input {longest} has lists of {lengths[longest]}, expected at most "
            f"{limits.list_length}"
        )
    pairs = rows * items * lengths[longest]
    if pairs > limits.pairs:
        raise exhausted(
            f"input {ITEMS} has {rows} lists of {items} candidates, which makes {pairs} pairs with "
            f"the longer of candidates and past actions, expected at most {limits.pairs}"
        )


def check_explained(shapes: Shapes, limits: Limits) -> None:
    """Holds a request to `explain` to its own limit.

    Raises:
      Refusal: It is about too many or too long lists.
    """
    rows, items = shapes[ITEMS]
    if rows * items**2 > limits.explained:
        raise exhausted(
            f"input {ITEMS} has {rows} lists of {items} candidates, which makes {rows * items**2} "
            f"lists x candidates x candidates to explain, expected at most {limits.explained}"
        )


def check_amount(shapes: Shapes, limits: Limits) -> None:
    """Holds all inputs of one request together to the limit of values.

    Raises:
      Refusal: There are too many.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if sum(sizes.values()) > limits.values:
        largest = max(sizes, key=lambda name: sizes[name])
        raise exhausted(
            f"the inputs have {sum(sizes.values())} values, expected at most {limits.values}; "
            f"input {largest} has the most, {sizes[largest]}"
        )


def check_values(name: str, array: np.ndarray[Any, Any]) -> None:
    """Refuses numbers that no order can be made of.

    Raises:
      Refusal: A float is NaN or infinite.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise invalid_argument(
            f"input {name} holds {array[place]} at {list(place)}, expected finite numbers"
        )


def _free_rank(info: TensorInfo) -> int:
    """The rank of a tensor of which no size is fixed; -1 for any other."""
    shape = info.tensor_shape
    if shape.unknown_rank or any(dim.size != -1 for dim in shape.dim):
        return -1
    return len(shape.dim)
