"""Counts that add up: events in = events used + dead letters, for each kind."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from tfx_pipeline.events.config import DAY, MICROSECONDS, EventsConfig
from tfx_pipeline.events.dead_letters import Reason
from tfx_pipeline.events.tables import KINDS

RECONCILIATION_FILE = "reconciliation.json"
UNREADABLE_FILES = "unreadable files"
NO_SNAPSHOT = "without a snapshot"
UNTIL = "until"
NEAR_UNTIL = "near until"
NEVER_MET = "to forget, never met"
EVENTS_ON, MET = "events on", "met"

_READ, _USED, _DEAD = "read", "used", "dead letters"


@dataclasses.dataclass
class Tally:
    """What was counted somewhere; tallies of all places add up to that of the job.

    Attributes:
      counts: What is counted, in as many words as it takes -> how often.
    """

    counts: Counter[tuple] = dataclasses.field(default_factory=Counter)

    def read(self, kind: str, rows: int) -> None:
        """Rows that there were in files."""
        self.counts[_READ, kind] += rows

    def used(self, kind: str, rows: int) -> None:
        """Rows that lists were made of."""
        self.counts[_USED, kind] += rows

    def dead(self, letters: Iterable[pa.Table]) -> None:
        """Dead letters."""
        for table in letters:
            for pair in (
                table.group_by(["kind", "reason"]).aggregate([("kind", "count")]).to_pylist()
            ):
                self.counts[_DEAD, pair["kind"], pair["reason"]] += pair["kind_count"]

    def add(self, what: str, keys: Iterable[Any], times: Iterable[int]) -> None:
        """Anything that a report shows, such as lists by day."""
        for key, count in zip(keys, times, strict=True):
            self.counts[what, key] += int(count)

    def of(self, what: str) -> dict[Any, int]:
        """What `add` was told: key -> how often, in the order of keys."""
        return dict(sorted((k[1], n) for k, n in self.counts.items() if k[0] == what))

    def rows(self, kind: str) -> int:
        """How many rows of a kind were read."""
        return self.counts[_READ, kind]

    def reasons(self) -> dict[tuple[str, str], int]:
        """Kind and reason -> how many dead letters, in the order of kinds and reasons."""
        return {
            (kind, reason.value): count
            for kind in KINDS
            for reason in Reason
            if (count := self.counts[_DEAD, kind, reason.value])
        }

    def to_json(self) -> str:
        """Exactly, for `from_json`."""
        return json.dumps([[*key, count] for key, count in self.counts.items()])

    @classmethod
    def from_json(cls, text: str) -> Tally:
        """What `to_json` wrote."""
        return cls(Counter({tuple(key): count for *key, count in json.loads(text)}))

    def __add__(self, other: Tally) -> Tally:
        total = Counter(self.counts)
        total.update(other.counts)
        return Tally(total)

    def reconciled(self) -> dict[str, dict]:
        """Kind -> rows read and used, and dead letters by reason.

        Raises:
          RuntimeError: They do not add up, which is a defect of ours.
        """
        found = {}
        for kind in KINDS:
            dead = {reason: n for (of, reason), n in self.reasons().items() if of == kind}
            read, used = self.counts[_READ, kind], self.counts[_USED, kind]
            # How many events a file that cannot be read has is not known.
            lost = sum(n for reason, n in dead.items() if reason != Reason.UNREADABLE_FILE)
            if read != used + lost:
                raise RuntimeError(f"{kind}: {read} rows read, but {used} used and {lost} not")
            if read or dead:
                found[kind] = {_READ: read, _USED: used, _DEAD: dead}
        return found


def reconciliation(tally: Tally, config: EventsConfig, to_forget: int) -> dict[str, Any]:
    """What `reconciliation.json` says of events.

    Args:
      tally: What all tasks counted.
      config: The mapping file.
      to_forget: How many users there are to forget.

    Returns:
      `until`, the end of observation; `near until`, where that is the newest event's time: how many
      `events` are of its UTC day or the day before, `of` how many, else null;
      `events` as `Tally.reconciled` has them; `unreadable files`, whose events are not among them;
      `to forget, never met`: users to forget whom no row names;
      `without a snapshot`: shown items and lists of whose item or user nothing was known then.
    """
    (until,) = tally.of(UNTIL)
    return {
        UNTIL: f"{np.datetime64(until // MICROSECONDS, 's')}Z",
        NEAR_UNTIL: _near(until, tally) if config.until is None else None,
        "events": tally.reconciled(),
        UNREADABLE_FILES: list(tally.of(UNREADABLE_FILES)),
        NEVER_MET: to_forget - len(tally.of(MET)),
        NO_SNAPSHOT: tally.of(NO_SNAPSHOT),
    }


def _near(until: int, tally: Tally) -> dict[str, int]:
    days = tally.of(EVENTS_ON)
    near = sum(count for day, count in days.items() if day >= until // DAY - 1)
    return {"events": near, "of": sum(days.values())}
