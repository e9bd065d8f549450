"""Acts that do not say which request they are of."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.acts import OF_REQUESTS, of_requests, set_aside
from tfx_pipeline.events.dead_letters import Reason
from tfx_pipeline.events.ordering import flat, is_first, numbers, ranks, within


def attributed(acts: pa.Table, searches: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Attributes each act to its user's newest request before it that shows the item.

    Args:
      acts: [n] that name no request, in the columns of `acts.SCHEMA`.
      searches: All of their users' that are not over the limit and whose windows reach to them.

    Returns:
      Acts with their request, and dead letters.
    """
    of_users = pc.is_in(searches["user_id"], value_set=acts["user_id"].combine_chunks())
    searches = searches.filter(of_users)
    lengths, shown = flat(searches["item_id"])
    row = np.repeat(np.arange(len(lengths)), lengths)
    position = within(lengths)

    user, by = ranks(searches["user_id"], acts["user_id"])
    item, on = ranks(shown, acts["item_id"])
    time, asked = numbers(acts["time"]), numbers(searches["time"])
    (request,) = ranks(searches["request_id"])
    # Of all that was shown, what somebody acted on; that is little.
    width = max(item.max(initial=0), on.max(initial=0)) + 1
    wanted = np.unique(by * width + on)
    pair = user[row] * width + item
    place = np.minimum(np.searchsorted(wanted, pair), len(wanted) - 1)
    some = np.flatnonzero(wanted[place] == pair)
    row, item, position = row[some], item[some], position[some]

    # Slots and acts of a user and an item together in the order of time, slots first: the last
    # slot before an act is its own.
    is_act = np.repeat([False, True], [len(row), len(time)])
    keys = [
        np.append(user[row], by),
        np.append(item, on),
        np.append(asked[row], time),
        is_act,
        np.append(request[row], np.zeros(len(time), np.int64)),
    ]
    order = np.lexsort(keys[::-1])
    new = is_first([keys[0][order], keys[1][order]])
    place = np.arange(len(order))
    slot_at = np.maximum.accumulate(np.where(is_act[order], -1, place))
    first_at = np.maximum.accumulate(np.where(new, place, -1))
    slot_of = np.empty(len(order), np.int64)
    slot_of[order] = np.where(slot_at >= first_at, order[slot_at], -1)
    slot = slot_of[len(row) :]

    there = slot >= 0
    in_time = there.copy()
    in_time[there] = time[there] <= asked[row[slot[there]]] + numbers(acts["window"])[there]
    acts, dead = set_aside(acts, {Reason.NO_REQUEST: ~in_time})
    slot = slot[in_time]
    requests = searches.select(OF_REQUESTS).take(pa.array(row[slot]))
    return of_requests(acts, requests, position[slot]), dead
