"""Requests side by side in one batch, and each request's own part of the answer.

Lists are filled up at the end with "" and 0, which every signature about lists takes for padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.columns import ITEMS, is_of_history
from serving.server.servable import Arrays

# Holds candidates' indices, which are cut otherwise than values.
_ORDER = "order"


class CannotSplit(RuntimeError):
    """An output that does not say which part of it is whose."""


def size(arrays: Arrays) -> tuple[int, int, int]:
    """Lists, candidates and past actions of a request."""
    rows, items = arrays[ITEMS].shape
    history = next(
        (a.shape[1] for name, a in arrays.items() if a.ndim == 2 and is_of_history(name)), 0
    )
    return rows, items, history


def merge(requests: Sequence[Arrays], rows: int) -> Arrays:
    """Stacks the inputs of several requests.

    Args:
      requests: The inputs of each, [B_i], [B_i, N_i] or [B_i, H_i].
      rows: How many lists to make; more than there are repeats the first, which is real.

    Returns:
      [rows], [rows, longest N] or [rows, longest H].
    """
    first, given = requests[0], sum(len(request[ITEMS]) for request in requests)
    if len(requests) == 1 and rows == given:
        return first
    return {
        name: _stack([request[name] for request in requests], first[name], rows) for name in first
    }


def split(
    outputs: Arrays,
    requests: Sequence[Arrays],
    rows: int,
    of_fixed_width: frozenset[str] = frozenset(),
) -> list[Arrays]:
    """Cuts the outputs back to each request's own lists and their own width.

    Args:
      outputs: [rows], [rows, longest N] or, by their names, [rows, longest H].
      requests: As they were merged.
      rows: As they were merged.
      of_fixed_width: Names of outputs whose width has nothing to do with the lists': [rows, K].

    Returns:
      As many dicts of [B_i], [B_i, N_i] or [B_i, H_i].

    Raises:
      CannotSplit: An output is not one value per list, candidate or past action.
    """
    sizes = [size(request) for request in requests]
    longest = {False: max(one[1] for one in sizes), True: max(one[2] for one in sizes)}
    for name, values in outputs.items():
        width = longest[is_of_history(name)]
        may_be = values.ndim != 2 or name in of_fixed_width or values.shape[1] == width
        if len(values) != rows or not may_be:
            raise CannotSplit(
                f"output {name} has shape {values.shape}, expected one value for each of "
                f"{rows} lists, or of {width} in each: it cannot be batched"
            )
    parts = []
    begin = 0
    for lists, items, history in sizes:
        end = begin + lists
        parts.append(
            {
                name: values[begin:end]
                if name in of_fixed_width
                else _cut(name, values[begin:end], history if is_of_history(name) else items)
                for name, values in outputs.items()
            }
        )
        begin = end
    return parts


def _stack(
    arrays: list[np.ndarray[Any, Any]], first: np.ndarray[Any, Any], rows: int
) -> np.ndarray[Any, Any]:
    given = sum(len(array) for array in arrays)
    arrays = [*arrays, *[first[:1]] * (rows - given)]
    if first.ndim == 1:
        return np.concatenate(arrays)
    longest = max(array.shape[1] for array in arrays)
    filler: Any = b"" if first.dtype == object else 0
    stacked = np.full((rows, longest), filler, first.dtype)
    begin = 0
    for array in arrays:
        stacked[begin : begin + len(array), : array.shape[1]] = array
        begin += len(array)
    return stacked


def _cut(name: str, values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    if values.ndim == 1 or values.shape[1] == width:
        return values
    if name != _ORDER:
        return values[:, :width]
    # The request's own padding may stand anywhere among that of the batch: what counts is the
    # order among its own candidates, which stays the same when the others are left out.
    own = values < width
    if not (own.sum(axis=1) == width).all():
        raise CannotSplit(f"output {name} is no permutation of {values.shape[1]} candidates")
    return values[own].reshape(len(values), width)
