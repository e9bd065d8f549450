"""Where a log of whole days is cut in time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from piano_tf.data.splits import ByDate, ByShare, Cuts, SplitRule
from piano_tf.errors import PianoError
from piano_tf.features import SPLITS

_SECONDS = 86_400


def cut(lists: Mapping[int, int], rule: SplitRule) -> dict[int, str]:
    """Which split each day is in.

    Args:
      lists: Day since 1970 -> its number of lists, above 0.
      rule: Dates; or shares, and then the cuts are at the midnights that come nearest to them with
        a day at least in each split.

    Returns:
      Day -> split.

    Raises:
      PianoError: There are too few days to cut by shares.
    """
    days = np.array(sorted(lists), np.int64)
    cuts = rule.cuts() if isinstance(rule, ByDate) else _by_share(days, lists, rule)
    split = cuts.split_of(days * _SECONDS)
    return {day: SPLITS[number] for day, number in zip(days.tolist(), split.tolist(), strict=True)}


def _by_share(days: np.ndarray, lists: Mapping[int, int], rule: ByShare) -> Cuts:
    if len(days) < len(SPLITS):
        raise PianoError(
            f"got lists of {len(days)} days, expected at least {len(SPLITS)} to cut by shares; "
            "bring a longer log"
        )
    counts = np.array([lists[day] for day in days.tolist()])
    after = 1 - (np.cumsum(counts) - counts) / counts.sum()  # share of lists from each day on
    test = 2 + int(np.argmin(np.abs(after[2:] - rule.test)))
    validation = 1 + int(np.argmin(np.abs(after[1:test] - rule.validation - rule.test)))
    return Cuts(int(days[validation]) * _SECONDS, int(days[test]) * _SECONDS)
