"""Where a log is cut in time into train, validation and test."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np

from piano_tf.data.list_index import ListIndex
from piano_tf.errors import PianoError
from piano_tf.features import SPLITS


@dataclasses.dataclass(frozen=True)
class Cuts:
    """The two moments at which a log is cut.

    Attributes:
      validation_from: Unix seconds of the first moment of validation.
      test_from: Unix seconds of the first moment of test.
    """

    validation_from: int
    test_from: int

    def split_of(self, timestamps: np.ndarray) -> np.ndarray:
        """Index into `SPLITS` for each timestamp [n] in Unix seconds.

        >>> Cuts(100, 200).split_of(np.array([99, 100, 199, 200]))
        array([0, 1, 1, 2])
        """
        return np.searchsorted([self.validation_from, self.test_from], timestamps, side="right")


@dataclasses.dataclass(frozen=True)
class ByDate:
    """Cuts at given dates (UTC midnight).

    Attributes:
      validation_from: First day of validation.
      test_from: First day of test.
    """

    validation_from: dt.date
    test_from: dt.date

    def __post_init__(self) -> None:
        if not self.validation_from < self.test_from:
            raise PianoError(
                f"got validation from {self.validation_from} and test from {self.test_from}; "
                "expected validation to begin before test"
            )

    def cuts(self, index: ListIndex | None = None) -> Cuts:
        del index  # the dates say it all
        return Cuts(_midnight(self.validation_from), _midnight(self.test_from))


@dataclasses.dataclass(frozen=True)
class ByShare:
    """Cuts by share of lists in order of time; lists of the same second stay together.

    Attributes:
      validation: Share of lists in validation, in (0, 1).
      test: Share of lists in test, in (0, 1).
    """

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise PianoError(
                f"got shares {self.validation} for validation and {self.test} for test; "
                "expected both above 0 and their sum below 1"
            )

    def cuts(self, index: ListIndex) -> Cuts:
        return Cuts(
            index.timestamp_at(1 - self.validation - self.test), index.timestamp_at(1 - self.test)
        )


SplitRule = ByDate | ByShare


def require_all(counts: dict[str, int]) -> None:
    """Raises a `PianoError` if a split has no lists.

    Args:
      counts: Split -> number of lists.
    """
    empty = [split for split in SPLITS if not counts.get(split)]
    if empty:
        raise PianoError(
            f"split {empty[0]!r} has no lists (lists per split: {counts}); "
            "move the cuts or bring a longer log"
        )


def _midnight(day: dt.date) -> int:
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.timezone.utc).timestamp())
