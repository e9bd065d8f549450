"""What a user had acted on before a request, as far as that was known then.

An *entry* is a request and an item of its list that the user acted on. It has one *version* for
each time that something new of it becomes known: that it was acted on at all, that this was
earlier than was known, that it converted. A version holds from just after it is known until the
next one is; the history of a list are the newest versions that hold at its time.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from tfx_pipeline.events.ordering import is_first, mask, numbers, ranks, starts, within

_NEVER = np.iinfo(np.int64).max
_AT_ONCE = 1 << 20  # candidates for histories that are looked at in one step

# `user` is a number that the shard gave; `moment` the earliest act known, `known_at` since when.
SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("request", pa.string()),
        ("position", pa.int32()),
        ("request_time", pa.int64()),
        ("query", pa.string()),
        ("item_id", pa.string()),
        ("moment", pa.int64()),
        ("known_at", pa.int64()),
        ("conversion", pa.bool_()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Histories:
    """Histories of lists, one after the other, each newest first.

    Attributes:
      lengths: [lists] entries of each.
      versions: [sum of lengths] in the columns of `SCHEMA`.
    """

    lengths: np.ndarray
    versions: pa.Table


class Versions:
    """The versions of some users' entries.

    Args:
      acts: Acts, and versions from before, in the columns of `SCHEMA`, in any order.
    """

    def __init__(self, acts: pa.Table) -> None:
        (request,) = ranks(acts["request"])
        user, position = numbers(acts["user"]), numbers(acts["position"])
        asked, known_at = numbers(acts["request_time"]), numbers(acts["known_at"])
        order = np.lexsort([known_at, position, request])
        first = is_first([request[order], position[order]])
        entry = np.cumsum(first) - 1
        moment = _least_so_far(numbers(acts["moment"])[order], entry)
        conversion = _any_so_far(mask(acts["conversion"])[order], entry)

        # The last of those that become known at one time, if it says something new.
        known_at = known_at[order]
        last = np.append(is_first([entry, known_at])[1:], True) if len(entry) else first
        order, entry, known_at = order[last], entry[last], known_at[last]
        moment, conversion = moment[last], conversion[last]
        new = is_first([entry, moment, conversion])
        order, entry, known_at = order[new], entry[new], known_at[new]
        moment, conversion = moment[new], conversion[new]
        until = np.full(len(entry), _NEVER)
        same = entry[1:] == entry[:-1]
        until[:-1][same] = known_at[1:][same]

        # Oldest first within each user; equal moments as the lists stood, top last.
        sort = np.lexsort([position[order], request[order], asked[order], moment, user[order]])
        rows = acts.take(pa.array(order[sort]))
        said = {"moment": pa.array(moment[sort]), "conversion": pa.array(conversion[sort])}
        self._table = pa.table([said.get(name, rows[name]) for name in SCHEMA.names], schema=SCHEMA)
        self._user = user[order][sort]
        self._asked = asked[order][sort]
        self._moment = moment[sort]
        self._known_at = known_at[sort]
        self._until = until[sort]
        self._entry = entry[sort]

    def before(self, user: np.ndarray, time: np.ndarray, length: int) -> Histories:
        """The newest entries of users strictly before some times.

        Args:
          user: [n] of whom.
          time: [n] before when.
          length: Most entries of each.
        """
        moments = np.unique(self._moment)
        width = len(moments) + 1
        keys = self._user * width + np.searchsorted(moments, self._moment)
        end = np.searchsorted(keys, user * width + np.searchsorted(moments, time))
        start = np.searchsorted(self._user, user)
        found = _Ragged(len(user))
        todo = np.arange(len(user))
        reach = length
        while todo.size:
            # Most versions hold; where many do not, look further back.
            again = []
            for part in _parts(todo, np.minimum(end[todo] - start[todo], reach)):
                again.append(self._look_back(part, start, end, time, reach, length, found))
            todo = np.concatenate(again)
            reach *= 4
        lengths, rows = found.joined()
        return Histories(lengths, self._table.take(pa.array(rows)))

    def _look_back(
        self,
        lists: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        time: np.ndarray,
        reach: int,
        length: int,
        found: _Ragged,
    ) -> np.ndarray:
        """Finds histories among the last `reach` versions; returns the lists that need more."""
        counts = np.minimum(end[lists] - start[lists], reach)
        of = np.repeat(np.arange(len(lists)), counts)
        rows = np.repeat(end[lists], counts) - 1 - within(counts)
        at = time[lists][of]
        holds = (self._known_at[rows] < at) & (at <= self._until[rows])
        of, rows = of[holds], rows[holds]
        held = np.bincount(of, minlength=len(lists))
        newest = within(held) < length
        enough = (held >= length) | (counts == end[lists] - start[lists])
        keep = newest & enough[of]
        found.add(lists[of[keep]], rows[keep])
        return lists[~enough]

    def still_needed(self, now: int, window: int, length: int) -> pa.Table:
        """The versions that a list at `now` or later may need.

        An entry is *settled* when no act can change it any more. A settled entry that comes after
        `length` others in every case never comes back, and is let go; so is of a settled entry
        all but its last version. What is left does not grow with how long a user has been there.

        Args:
          now: No list and no act is earlier.
          window: The longest time between a request and an act that counts.
          length: Most entries of a history.
        """
        if not len(self._entry):
            return self._table
        final = self._until == _NEVER
        last_known = np.zeros(self._entry.max() + 1, np.int64)
        last_known[self._entry[final]] = self._known_at[final]
        settled = (self._asked + window < now) & (last_known[self._entry] < now)
        # Of an entry that may yet change, its moment may fall to the time of its request.
        lowest = np.where(settled, self._moment, self._asked)
        current = (self._known_at < now) & (now <= self._until)
        rivals = np.flatnonzero(current)
        rivals = rivals[np.lexsort([lowest[rivals], self._user[rivals]])]
        users, counts = np.unique(self._user[rivals], return_counts=True)
        place = starts(counts) + counts - length
        bound = np.where(counts >= length, lowest[rivals[np.maximum(place, 0)]], -1)
        of = np.searchsorted(users, self._user)
        has = (of < len(users)) & (np.append(users, -1)[of] == self._user)
        limit = np.where(has, np.append(bound, -1)[of], -1)
        needed = ~settled | (final & (self._moment >= limit))
        return self._table.filter(pa.array(needed))


class _Ragged:
    """Rows found for lists, in the order of each list's rows, whenever a list's turn was."""

    def __init__(self, lists: int) -> None:
        self._count = lists
        self._lists: list[np.ndarray] = [np.array([], np.int64)]
        self._rows: list[np.ndarray] = [np.array([], np.int64)]

    def add(self, lists: np.ndarray, rows: np.ndarray) -> None:
        self._lists.append(lists)
        self._rows.append(rows)

    def joined(self) -> tuple[np.ndarray, np.ndarray]:
        lists, rows = np.concatenate(self._lists), np.concatenate(self._rows)
        order = np.argsort(lists, kind="stable")
        return np.bincount(lists, minlength=self._count), rows[order]


def _parts(rows: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Rows in parts whose weights sum to about `_AT_ONCE` at most."""
    part = np.cumsum(weights) // _AT_ONCE
    return np.split(rows, np.flatnonzero(np.diff(part)) + 1)


def _least_so_far(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The least of the values of a group up to each; groups stand one after the other."""
    ascending, rank = np.unique(values, return_inverse=True)
    # Later groups lie lower, so that the running minimum starts anew with each.
    fall = (len(group) - group) * len(ascending)
    return ascending[np.minimum.accumulate(rank + fall) - fall] if len(group) else values


def _any_so_far(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whether any value of a group up to each is true; groups stand one after the other."""
    return np.maximum.accumulate(values + 2 * group) - 2 * group > 0
