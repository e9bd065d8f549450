"""What is counted of lists and acts beside what must add up, for the report."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from piano_tf.features import CLICK, CONVERSION, LABELS
from tfx_pipeline.events.config import DAY
from tfx_pipeline.events.ordering import flat, mask, numbers, within
from tfx_pipeline.events.reconciliation import EVENTS_ON, MET, Tally

SETTLED, HELD_BACK = "lists on", "held back on"
SHOWN = "shown at"
HISTORY = "history of"


def columns_of(kind: str) -> str:
    """Name of the count of batches of a table that have a column."""
    return f"columns of {kind}"


def acted(label: str) -> str:
    """Name of the count of clicked or converted items by position."""
    return f"{label} at"


def delay_of(label: str) -> str:
    """Name of the count of acts by the bin of their delay."""
    return f"delay of {label}"


def delay_below(number: int) -> float:
    """The longest delay of a bin in seconds: bins double.

    >>> [delay_below(number) for number in (0, 1, 2)]
    [0.5, 1.0, 2.0]
    """
    return 2.0 ** (number - 1)


def count_met(users: list[int], tally: Tally) -> None:
    """Users to forget whom some rows name, by their place in the order of all."""
    tally.add(MET, users, [1] * len(users))


def count_days(events: pa.Table, tally: Tally) -> None:
    """Events by their UTC day."""
    days, counts = np.unique(numbers(events["time"]) // DAY, return_counts=True)
    tally.add(EVENTS_ON, days.tolist(), counts)


def count_acts(acts: pa.Table, tally: Tally) -> None:
    """How long after their requests acts came."""
    seconds = (numbers(acts["time"]) - numbers(acts["request_time"])) / 1e6
    bins = np.ceil(np.log2(np.maximum(seconds, 0.5))).astype(int) + 1
    conversion = mask(acts["conversion"])
    for label, which in ((CLICK, ~conversion), (CONVERSION, conversion)):
        found, counts = np.unique(bins[which], return_counts=True)
        tally.add(delay_of(label), found.tolist(), counts)


def count_lists(some: pa.Table, tally: Tally) -> None:
    """Clicks and conversions by position, and the lengths of histories, of settled lists."""
    shown, _ = flat(some["item_id"])
    position = within(shown)
    counts = np.bincount(position)
    tally.add(SHOWN, range(len(counts)), counts)
    for label in LABELS:
        counts = np.bincount(position, weights=numbers(flat(some[label])[1]))
        tally.add(acted(label), range(len(counts)), counts)
    lengths, counts = np.unique(flat(some["history_item_id"])[0], return_counts=True)
    tally.add(HISTORY, lengths.tolist(), counts)
