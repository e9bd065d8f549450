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
# Runs the model once, and once more for each value of a list that it gives.
SELECT_LIST = "select_list"
_LIST_VALUE = "list_value"

Shapes = Mapping[str, tuple[int, ...]]


def is_about_lists(signature: SignatureDef) -> bool:
    """Whether a signature takes the columns of search lists as padded tensors."""
    return (
        ITEMS in signature.inputs
        and _free_rank(signature.inputs[ITEMS]) == 2
        and all(_free_rank(info) in RANKS for info in signature.inputs.values())
        and all(
            _free_rank(info) in RANKS or _values_per_list(info)
            for info in signature.outputs.values()
        )
    )


def of_fixed_width(signature: SignatureDef) -> frozenset[str]:
    """Names of the outputs that have so many values per list, however long the lists are."""
    return frozenset(name for name, info in signature.outputs.items() if _values_per_list(info))


def passes(name: str, signature: SignatureDef) -> int:
    """How often a signature about lists, other than `explain`, runs the model over them."""
    if name != SELECT_LIST or _LIST_VALUE not in signature.outputs:
        return 1
    return 1 + _values_per_list(signature.outputs[_LIST_VALUE])


def check_shapes(shapes: Shapes, limits: Limits, passes: int = 1) -> None:
    """Holds the inputs of one request to each other and to the limits.

    Args:
      shapes: Input name -> (lists,) or (lists, length).
      limits: Of the server.
      passes: How often the model is run over the lists; each counts.

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
    why = f", for the model is run {passes} times over each" if passes > 1 else ""
    if rows * passes > limits.lists:
        raise exhausted(
            "lists",
            f"input {ITEMS} has {rows} lists, expected at most {limits.lists // passes}{why}",
        )
    # The candidates first, and of columns that are as long the first one.
    longest = max([ITEMS, *lengths], key=lambda name: lengths[name])
    if lengths[longest] > limits.list_length:
        raise exhausted(
            "list_length",
            f"input {longest} has lists of {lengths[longest]}, expected at most "
            f"{limits.list_length}",
        )
    pairs = passes * rows * items * lengths[longest]
    if pairs > limits.pairs:
        raise exhausted(
            "pairs",
            f"input {ITEMS} has {rows} lists of {items} candidates, which makes {pairs} pairs with "
            f"the longer of candidates and past actions, expected at most {limits.pairs}{why}",
        )


def check_explained(shapes: Shapes, limits: Limits) -> None:
    """Holds a request to `explain` to its own limit.

    Raises:
      Refusal: It is about too many or too long lists.
    """
    rows, items = shapes[ITEMS]
    if rows * items**2 > limits.explained:
        raise exhausted(
            "explained",
            f"input {ITEMS} has {rows} lists of {items} candidates, which makes {rows * items**2} "
            f"lists x candidates x candidates to explain, expected at most {limits.explained}",
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
            "values",
            f"the inputs have {sum(sizes.values())} values, expected at most {limits.values}; "
            f"input {largest} has the most, {sizes[largest]}",
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


def _values_per_list(info: TensorInfo) -> int:
    """How many values an output of fixed width has for each list; 0 for any other."""
    shape = info.tensor_shape
    if shape.unknown_rank or len(shape.dim) != 2 or shape.dim[0].size != -1:
        return 0
    return max(0, shape.dim[1].size)
