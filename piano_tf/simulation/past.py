"""What listeners did, and how much of it they can be remembered by at a moment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from piano_tf.simulation.behaviour import Outcome
from piano_tf.simulation.draws import Bools, Ints
from piano_tf.simulation.searches import DAY, Searches

_MOMENTS = 2**40  # more seconds than any Unix time


class History(NamedTuple):
    """The pasts of B lists, one after the other, each newest first.

    Attributes:
      length: [B] entries of each.
      query, track: [n] what was asked and clicked.
      converted: [n] whether a conversion followed.
      age: [n] days before the list.
    """

    length: Ints
    query: Ints
    track: Ints
    converted: Bools
    age: np.ndarray


class Past:
    """Clicks of every listener, the newest `kept` of each; memory does not grow with the log.

    A click is dated at its list; of one list, the click further down is the newer one.

    Args:
      kept: Entries of a listener.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self._listener, self._time, self._query, self._track = np.zeros((4, 0), np.int64)
        self._converted = np.zeros(0, bool)

    def add(self, searches: Searches, outcome: Outcome) -> None:
        """Remembers what was done with lists that are later than all before.

        Args:
          searches: The lists, candidates in the order in which they were shown.
          outcome: [B, N] what was done with them.
        """
        row, rank = np.nonzero(outcome.click)
        new = (
            searches.listener[row],
            searches.time[row],
            searches.query[row],
            searches.track[row, rank],
            outcome.conversion[row, rank],
        )
        old = self._listener, self._time, self._query, self._track, self._converted
        both = [np.concatenate(pair) for pair in zip(old, new, strict=True)]
        order = np.argsort(both[0], kind="stable")
        self._listener, self._time, self._query, self._track, self._converted = (
            values[order] for values in both
        )

    def forget(self) -> None:
        """Lets go of what is older than the newest `kept` of each listener."""
        end = np.searchsorted(self._listener, self._listener, side="right")
        keep = end - np.arange(len(end)) <= self.kept
        self._listener, self._time, self._query, self._track, self._converted = (
            values[keep]
            for values in (self._listener, self._time, self._query, self._track, self._converted)
        )

    def of(self, searches: Searches) -> History:
        """What each list's listener can be remembered by: the newest acts before the list."""
        # One number that rises with the listener and, within a listener, with the time.
        moment = self._listener * _MOMENTS + self._time
        stop = np.searchsorted(moment, searches.listener * _MOMENTS + searches.time)
        start = np.searchsorted(self._listener, searches.listener)
        length = np.minimum(stop - start, self.kept)
        row = np.repeat(np.arange(len(length)), length)
        entry = stop[row] - 1 - (np.arange(len(row)) - np.searchsorted(row, row))
        return History(
            length,
            self._query[entry],
            self._track[entry],
            self._converted[entry],
            (searches.time[row] - self._time[entry]) / DAY,
        )
