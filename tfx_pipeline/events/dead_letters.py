"""Events that are not used, each with the one reason why."""

from __future__ import annotations

import enum

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("time", pa.int64()),
        ("user_id", pa.string()),
        ("request_id", pa.string()),
        ("item_id", pa.string()),
        ("detail", pa.string()),
    ]
)


class Reason(str, enum.Enum):
    """Why an event is not used."""

    UNREADABLE_FILE = "unreadable file"
    NOT_READABLE = "not readable"
    NOT_UTF8 = "not UTF-8"
    MISSING = "missing value"
    OUT_OF_RANGE = "time out of range"
    FORGOTTEN = "forgotten"
    OLD = "older than retention"
    OVER_LIMIT = "over the limit"
    EMPTY_LIST = "empty list"
    ITEM_TWICE = "item shown twice"
    SCORES = "scores do not match items"
    DUPLICATE = "duplicate"
    REQUEST_TWICE = "request id used twice"
    UNKNOWN_KIND = "unknown kind"
    UNKNOWN_REQUEST = "unknown request"
    OTHER_USER = "another user's request"
    NOT_SHOWN = "item not shown"
    TOO_EARLY = "before its request"
    TOO_LATE = "outside the window"
    NO_REQUEST = "no request within the window"
    REPLACED = "another snapshot of that time"
