"""From search lists to the padded arrays that a signature takes.

Every list is held to the model's inputs before anything is sent, since only here can an error still
name the list and the position at fault.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.search_list import CONTRACT, RequestError, SearchList, is_sequence
from serving.columns import HISTORY, ITEMS, RANKS, along, as_long_as

# A model need not read every column that each list has; any other column must be of use to it.
_ALWAYS_GIVEN = {*CONTRACT} - {"initial_score"}
_KINDS = {"O": "text", "f": "a finite number", "i": "an integer"}


@dataclasses.dataclass(frozen=True)
class Column:
    """One input of the model.

    Attributes:
      name: The column's name.
      dtype: The type of its values: object for text, a float or a signed integer.
      rank: 1 for one value per list, 2 for one per candidate or history entry.
    """

    name: str
    dtype: np.dtype[Any]
    rank: int

    @property
    def is_of_search_lists(self) -> bool:
        """Whether a search list can have such a column at all."""
        return self.dtype.kind in _KINDS and self.rank in RANKS

    @property
    def along(self) -> str:
        """The column that gives a column of rank 2 its length."""
        return along(self.name)

    @property
    def kind(self) -> str:
        """What each value must be, in words."""
        if self.name in (ITEMS, HISTORY):
            return "an item: text other than '', which marks padding"
        return _KINDS[self.dtype.kind]

    def holds(self, value: Any) -> bool:
        """Whether this column can hold a single value without loss of its meaning."""
        if self.dtype.kind == "O":
            return isinstance(value, str) and (value != "" or self.name not in (ITEMS, HISTORY))
        number = numbers.Real if self.dtype.kind == "f" else numbers.Integral
        lowest, highest = self._limits
        # Python counts booleans among the integers, a log does not; NaN fails any comparison.
        return (
            isinstance(value, number) and not isinstance(value, bool) and lowest <= value <= highest
        )

    @functools.cached_property
    def _limits(self) -> list[Any]:
        """The least and the greatest number of the column's type."""
        limits = (np.finfo if self.dtype.kind == "f" else np.iinfo)(self.dtype)
        # As Python's own numbers, which compare with integers of any size.
        return np.array([limits.min, limits.max], self.dtype).tolist()


def pad_batch(
    lists: Sequence[SearchList],
    columns: Mapping[str, Column],
    pad_to: tuple[int, int] = (1, 1),
) -> dict[str, np.ndarray[Any, Any]]:
    """Checks search lists against the model's inputs and stacks them.

    Args:
      lists: [B] the lists, at least one.
      columns: The model's inputs by name.
      pad_to: Places for candidates and for history entries that there are at least; 1 or more, so
        that a batch without any history has a tensor to speak of.

    Returns:
      One array per input, [B] or [B, longest], padded at the end with "" and 0.

    Raises:
      RequestError: A list does not fit the inputs.
    """
    rows = [_checked(search_list, index, columns) for index, search_list in enumerate(lists)]
    least = dict(zip((ITEMS, HISTORY), pad_to, strict=True))
    return {
        name: _stack(column, [row[name] for row in rows], least[column.along])
        for name, column in columns.items()
    }


def _checked(search_list: SearchList, index: int, columns: Mapping[str, Column]) -> dict[str, Any]:
    """Returns what one list has for each input."""
    given = search_list.columns()
    for name in sorted(given.keys() - columns.keys() - _ALWAYS_GIVEN):
        raise RequestError(
            f"list {index}: the model takes no column {name!r}, given {reprlib.repr(given[name])}; "
            f"it takes {', '.join(sorted(columns))}"
        )
    lengths = {name: _length(given[name], name, index) for name in (ITEMS, HISTORY)}
    if lengths[ITEMS] == 0:
        raise RequestError(f"list {index}: column {ITEMS!r} is empty, expected a candidate or more")
    _require_all(columns, given, lengths, index)
    return {name: _fit(column, given, lengths, index) for name, column in columns.items()}


def _require_all(
    columns: Mapping[str, Column], given: Mapping[str, Any], lengths: Mapping[str, int], index: int
) -> None:
    missing = sorted(
        name
        for name in columns.keys() - given.keys()
        if columns[name].along != HISTORY or lengths[HISTORY] > 0
    )
    if not missing:
        return
    column, others = columns[missing[0]], ", ".join(map(repr, missing[1:]))
    raise RequestError(
        f"list {index}: column {column.name!r} is missing, expected {column.kind} "
        f"{'for the list' if column.rank == 1 else f'for each {column.along}'}"
        f"{f'; so are {others}' if others else ''}"
    )


def _fit(column: Column, given: Mapping[str, Any], lengths: Mapping[str, int], index: int) -> Any:
    """Returns what one list has for one input."""
    if column.name not in given:
        return ()  # of an empty history
    value = given[column.name]
    if column.rank == 1:
        if not column.holds(value):
            raise RequestError(
                f"list {index}: column {column.name!r} holds {reprlib.repr(value)}, "
                f"expected {column.kind}"
            )
        return value
    length = _length(value, column.name, index)
    if length != lengths[column.along]:
        raise RequestError(
            f"list {index}: column {column.name!r} holds {length} values, {reprlib.repr(value)}, "
            f"{as_long_as(column.along, lengths[column.along])}"
        )
    for position, one in enumerate(value):
        if not column.holds(one):
            raise RequestError(
                f"list {index}: column {column.name!r} holds {reprlib.repr(one)} "
                f"at position {position}, expected {column.kind}"
            )
    return value


def _length(value: Any, name: str, index: int) -> int:
    if not is_sequence(value):
        raise RequestError(
            f"list {index}: column {name!r} holds {reprlib.repr(value)}, expected a sequence"
        )
    return len(value)


def _stack(column: Column, values: Sequence[Any], least: int) -> np.ndarray[Any, Any]:
    """Joins one column of all lists, padding the shorter ones."""
    if column.rank == 1:
        return np.array(values, column.dtype)
    width = max(least, *map(len, values))
    stacked = np.full((len(values), width), "" if column.dtype.kind == "O" else 0, column.dtype)
    for row, value in zip(stacked, values, strict=True):
        row[: len(value)] = value
    return stacked
