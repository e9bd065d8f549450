"""Searches that make a list, one a request id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from tfx_pipeline.events.dead_letters import Reason, set_aside
from tfx_pipeline.events.ordering import flat, is_first, ranks, slices_of
from tfx_pipeline.events.tables import SEARCH

_ORDER = ("time", "arrived_at", "user_id", "query", "item_id", "initial_score")  # then the context
_ARRIVED = _ORDER.index("arrived_at")


def sifted(searches: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Sets searches aside that are no list of their own.

    A list must have items, each once, and as many scores where there are scores. Of searches with
    one request id the first in time is kept, so that what comes later changes nothing. One that
    came again differs from it in its arrival at most.

    Args:
      searches: [n] in canonical columns, all that there are of their request ids.

    Returns:
      Those that are kept, and dead letters.
    """
    slices = [_faults(some) for some in slices_of(searches)]
    faults = {fault: np.concatenate([one[fault] for one in slices]) for fault in slices[0]}
    searches, dead = set_aside(SEARCH, searches, faults)
    searches, more = set_aside(SEARCH, searches, _repeated(searches))
    return searches, dead + more


def _faults(searches: pa.Table) -> dict[Reason, np.ndarray]:
    lengths, items = flat(searches["item_id"])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    empty = lengths == 0
    twice = np.zeros(len(lengths), bool)
    if len(items):
        (codes,) = ranks(items)
        slots = np.sort(rows * (codes.max() + 1) + codes)
        again = slots[1:][slots[1:] == slots[:-1]]
        twice[again // (codes.max() + 1)] = True
    found = {Reason.EMPTY_LIST: empty, Reason.ITEM_TWICE: twice}
    if "initial_score" in searches.schema.names:
        scored, _ = flat(searches["initial_score"])
        found[Reason.SCORES] = (scored != lengths) & ~empty & ~twice
    return found


def _repeated(searches: pa.Table) -> dict[Reason, np.ndarray]:
    """Which searches repeat another of the same request id, or contradict it."""
    (request,) = ranks(searches["request_id"])
    order = np.argsort(request, kind="stable")
    first = is_first([request[order]])
    lonely = first & np.append(first[1:], True)
    contested = order[~lonely]  # few, and compared in plain Python
    again, other = np.zeros((2, searches.num_rows), bool)
    kept: dict[str, tuple] = {}
    content = _content(searches.take(pa.array(contested)))
    for row, request_id, values in sorted(
        zip(contested.tolist(), *content, strict=True), key=lambda one: one[1:]
    ):
        said = values[:_ARRIVED] + values[_ARRIVED + 1 :]
        if request_id not in kept:
            kept[request_id] = said
        elif kept[request_id] == said:
            again[row] = True
        else:
            other[row] = True
    return {Reason.DUPLICATE: again, Reason.REQUEST_TWICE: other}


def _content(searches: pa.Table) -> tuple[list[str], list[tuple]]:
    """Request ids, and all else that a search says, in an order that Python can sort by."""
    names = [name for name in _ORDER if name in searches.schema.names]
    names += [name for name in searches.schema.names if name.startswith("context_")]
    columns = [_sortable(searches[name].to_pylist()) for name in names]
    return searches["request_id"].to_pylist(), list(zip(*columns, strict=True))


def _sortable(values: Iterable[Any]) -> list[tuple]:
    """Nulls first."""
    return [() if value is None else (value,) for value in values]
