"""Users who do more in a day than a person can."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tfx_pipeline.events.config import DAY
from tfx_pipeline.events.ordering import is_first, numbers, ranks, within


def over_the_limit(searches: pa.Table, acts: pa.Table, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Which events come after the first `limit` of their user on their day (UTC).

    In the order of time, so that what a user does later changes nothing of what counted before.

    Args:
      searches: [n] kept searches of whole days, all of their users'.
      acts: [m] acts of these days, in the columns of `acts.SCHEMA`.
      limit: Events of one user on one day that count.

    Returns:
      [n] and [m] which are over the limit.
    """
    searched = searches.num_rows
    kind = np.repeat([0, 1], [searched, acts.num_rows]) + np.append(
        np.zeros(searched, np.int64), numbers(acts["conversion"]).astype(np.int64)
    )
    time = np.append(numbers(searches["time"]), numbers(acts["time"]))
    user = np.concatenate(ranks(searches["user_id"], acts["user_id"]))
    request = np.concatenate(ranks(searches["request_id"], acts["request_id"]))
    nothing = np.zeros(searched, np.int64)  # no two searches have the same request
    item, kind_of, named = (
        np.append(nothing, ranks(acts[name])[0]) for name in ("item_id", "kind", "named_user")
    )
    order = np.lexsort([named, kind_of, item, request, kind, time, user])
    new = is_first([user[order], time[order] // DAY])
    place = np.empty(len(order), np.int64)
    place[order] = within(np.diff(np.append(np.flatnonzero(new), len(order))))
    return place[:searched] >= limit, place[searched:] >= limit
