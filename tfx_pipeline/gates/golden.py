"""Golden requests: lists that every served model must answer, and what an answer must be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from piano_tf.data.logs import find_list, read_spec
from piano_tf.features import Axis, FeatureSpec
from serving.client import RerankedList, SearchList

# Beside another list a model multiplies larger matrices, and sums in another order.
_TOLERANCE = 1e-4
_PROBABILITIES = ("click", "conversion")

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Golden:
    """A request by the name that a person reads.

    Attributes:
      name: What is asked.
      asked: The list.
    """

    name: str
    asked: SearchList


def golden_requests(log_dir: Path, longest_list: int) -> tuple[Golden, ...]:
    """A list of the test split as it is, and what may become of one.

    Args:
      log_dir: A log.
      longest_list: Candidates of the longest list to ask about.
    """
    features = read_spec(log_dir)
    row = find_list(log_dir, "test")
    rows = {
        "normal": row,
        "empty history": without_history(row, features),
        "unknown ids": with_unknown_ids(row, features),
        "longest list": with_candidates(row, features, longest_list),
        "one candidate": with_candidates(row, features, 1),
    }
    return tuple(Golden(name, SearchList.from_columns(one)) for name, one in rows.items())


def without_history(row: Row, features: FeatureSpec) -> dict[str, Any]:
    """The row of a listener whom nobody knows yet."""
    past = {column.name: [] for column in features.columns() if column.axis is Axis.HISTORY}
    return {**row, **past}


def with_unknown_ids(row: Row, features: FeatureSpec) -> dict[str, Any]:
    """The row with text that no log has in every column of text, but for the kind of action."""
    unknown = {}
    for column in features.columns(labels=False):
        if column.type == "string" and column.name != "history_action":
            value = row[column.name]
            unknown[column.name] = (
                [f"never seen {place}" for place in range(len(value))]
                if isinstance(value, list)
                else "never seen"
            )
    return {**row, **unknown}


def with_candidates(row: Row, features: FeatureSpec, count: int) -> dict[str, Any]:
    """The row with its candidates cut or repeated to be `count`."""
    items = {}
    for column in features.columns(labels=False):
        if column.axis is Axis.ITEM:
            values = row[column.name]
            items[column.name] = (values * -(-count // len(values)))[:count]
    return {**row, **items}


def faults(asked: SearchList, answer: RerankedList) -> Iterator[str]:
    """What is wrong with an answer; nothing if it is one."""
    count = len(asked.item_id)
    numbers = {name: np.array(getattr(answer, name)) for name in ("score", *_PROBABILITIES)}
    lists = np.array([answer.list_click, answer.list_conversion])
    for name, values in numbers.items():
        if values.shape != (count,):
            yield f"{name} has shape {values.shape}, expected {(count,)}"
            return
        if not np.isfinite(values).all():
            yield f"{name} is not finite"
    probabilities = [*(numbers[name] for name in _PROBABILITIES), lists]
    if not all(((one >= 0) & (one <= 1)).all() for one in probabilities):
        yield "a probability is not between 0 and 1"
    if not (numbers["conversion"] <= numbers["click"] + _TOLERANCE).all():
        yield "p(conversion) exceeds p(click)"
    if sorted(answer.order) != list(range(count)):
        yield f"order is no permutation of {count} candidates"
    elif not (np.diff(numbers["score"][list(answer.order)]) <= _TOLERANCE).all():
        yield "order does not follow the score"


def padding_faults(alone: Sequence[RerankedList], beside: Sequence[RerankedList]) -> Iterator[str]:
    """What changes in answers when lists of other lengths are asked about in the same call.

    Args:
      alone: Each list's answer by itself.
      beside: The same lists', padded to the longest.
    """
    for one, other in zip(alone, beside, strict=True):
        for name in ("score", *_PROBABILITIES, "list_click", "list_conversion"):
            if not np.allclose(getattr(one, name), getattr(other, name), atol=_TOLERANCE):
                yield f"padding changes {name} of a list of {len(one.item_id)}"
