"""Random event streams in which what can go wrong goes wrong often.

There are few users, items and requests, so that ids collide; times lie on a few moments around
midnights, so that they are equal, just before and just after each other, and just within windows.

Every event is made of one number, by the standard library's random generator: hypothesis draws the
numbers, one an event, and makes a failing stream smaller by leaving events out.
"""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

from hypothesis import strategies as st
from reference import DAY, TABLES, Event, Rules, identified

SECOND = 1_000_000
HOUR = 3_600 * SECOND
START = 1_704_067_200 * SECOND  # 2024-01-01, 00:00 UTC
DAYS = 4

USERS = ("ann", "bob", "Zoë")
ITEMS = ("a", "b", "c", "宇")
KINDS = ("play", "buy", "share")
# Within a day; windows and delays are made of the same, so that sums meet them.
OFFSETS = (0, 1, SECOND - 1, SECOND, HOUR, 12 * HOUR, DAY - HOUR, DAY - SECOND, DAY - 1)
DELAYS = (0, 1, SECOND, SECOND, HOUR, HOUR, HOUR + 1, 12 * HOUR, DAY, DAY + 1, 2 * DAY)
WINDOWS = (0, SECOND, HOUR, 12 * HOUR, DAY, DAY, 2 * DAY, 2 * DAY)
FLOATS = (0.0, 0.5, -2.25, 1e9)  # exact in single precision

TYPES = {
    "context": {"device": "string", "hour": "float"},
    "item": {"brand": "string", "price": "float"},
    "user": {"country": "string", "plays": "float"},
}
HISTORY_ITEM = ("price", "brand")
VALUES: dict[str, tuple[Any, ...]] = {"string": ("", "x", "Ümit"), "float": FLOATS}


@dataclasses.dataclass(frozen=True)
class Stream:
    """Events by table, and the rules for them."""

    events: dict[str, list[Event]]
    rules: Rules


@dataclasses.dataclass(frozen=True)
class Kind:
    """What sort of stream it is.

    Attributes:
      faults: Share of events with a fault of their own.
      late: Share of known arrivals that are not at once.
    """

    faults: float = 0.1
    late: float = 0.3


USUAL = Kind()


def moment(rng: Random) -> int:
    return START + rng.randrange(DAYS) * DAY + rng.choice(OFFSETS)


def arrival(rng: Random, time: int, kind: Kind, moments: list[int] | None = None) -> int | None:
    """Often unknown, else mostly at once, sometimes late; clocks may even say before.

    Args:
      rng: What to draw from.
      time: When it happened.
      kind: Of the stream.
      moments: At which it may have arrived too.
    """
    if rng.random() < 0.4:
        return None
    if rng.random() > kind.late:
        return time
    return rng.choice((time + 1, time + HOUR, time + DAY, time - HOUR, *(moments or ())))


def features(rng: Random, group: str) -> dict[str, Any]:
    return {name: rng.choice(VALUES[type]) for name, type in TYPES[group].items()}


def search(number: int, kind: Kind = USUAL) -> Event:
    """A search; its request id may be another's too."""
    rng = Random(number)
    time = moment(rng)
    items = rng.sample(ITEMS, rng.randint(1, len(ITEMS)))
    faulty = rng.random() < kind.faults
    if faulty:
        items = rng.choice([[], [], [*items, items[0]], items])
    request = rng.randrange(8 if rng.random() < kind.faults else 1_000)
    extra = int(faulty and rng.random() < 0.3)
    return {
        "request_id": f"r{request}",
        "user_id": rng.choice((*USERS[:2], *USERS[:2], *USERS)),
        "time": time,
        "query": rng.choice(("soul", "", "ソウル")),
        "items": items,
        "scores": [rng.choice(FLOATS) for _ in range(len(items) + extra)],
        "context": features(rng, "context"),
        "arrived_at": arrival(rng, time, kind),
    }


def act(number: int, shown: list[Event], table: str, kind: Kind = USUAL) -> Event:
    """A click or conversion: mostly of what a search showed, at or some time after it.

    Args:
      number: Of what it is made.
      shown: Searches.
      table: `click` or `conversion`.
      kind: Of the stream.
    """
    rng = Random(number)
    of = rng.choice(shown)
    others = [other["time"] for other in shown if other["time"] >= of["time"]]
    time = rng.choice((*others, *(of["time"] + delay for delay in DELAYS)))
    later = [moment for moment in others if moment >= time]
    found = {
        "request_id": of["request_id"],
        "user_id": of["user_id"],
        "item_id": rng.choice(of["items"] or ITEMS),
        "time": time,
        "arrived_at": arrival(rng, time, kind, later),
        "kind": rng.choice((None, *KINDS)) if table == "conversion" else None,
    }
    named = rng.choice(("both", "request", "request", "user", "user"))
    if named == "request":
        found["user_id"] = None
    if named == "user":
        found["request_id"] = None
    if rng.random() < kind.faults:
        found |= rng.choice(
            (
                {"request_id": "nowhere"},
                {"request_id": None, "user_id": None},
                {"user_id": "carol"},
                {"user_id": "ann"},
                {"item_id": "unknown"},
                {"item_id": "a"},
                {"time": of["time"] - 1},
                {"time": moment(rng)},
            )
        )
    return found


def snapshot(number: int, group: str) -> Event:
    """What is known of an item or a user from a moment on, which may be one of another's."""
    rng = Random(number)
    return {
        "id": rng.choice(ITEMS if group == "item" else USERS),
        "valid_from": START + rng.randrange(-1, DAYS) * DAY + rng.choice(OFFSETS[:4]),
        "features": features(rng, group),
    }


def again(number: int, events: list[Event], group: str) -> Event:
    """An event that came twice, half of the time not quite the same the second time."""
    rng = Random(number)
    event = rng.choice(events)
    if group in ("item", "user"):
        change: dict[str, Any] = {"features": features(rng, group)}
    else:
        change = rng.choice(({"arrived_at": None}, {"time": moment(rng)}, {"user_id": "bob"}))
    return {**event, **(change if rng.random() < 0.5 else {})}


def rules(number: int) -> Rules:
    """Windows, limits and privacy; mostly none of the last, so that enough is left to be used."""
    rng = Random(number)
    kinds = {kind: rng.choice(WINDOWS) for kind in rng.sample(KINDS, rng.randrange(3))}
    named_only = kinds and rng.random() < 0.2
    private = rng.random() < 0.3
    return Rules(
        click_window=rng.choice(WINDOWS),
        conversion_windows=kinds,
        default_conversion_window=None if named_only else rng.choice(WINDOWS),
        history_length=rng.choice((1, 2, 3, 50, 50)),
        until=rng.choice((None, START + 2 * DAY, START + 5 * DAY, START + 9 * DAY)),
        events_per_user_day=rng.choice((None, None, None, None, 1, 2, 3, 4)),
        retention=rng.choice((None, None, DAY, 3 * DAY, 5 * DAY)) if private else None,
        forget=frozenset(rng.sample(USERS, rng.randrange(2))) if private else frozenset(),
        salt=rng.choice((None, "sea")) if private else None,
        context=TYPES["context"],
        item=TYPES["item"],
        user=TYPES["user"],
        history_item=HISTORY_ITEM,
    )


def stream_of(numbers: dict[str, list[int]], of_rules: int, kind: Kind = USUAL) -> Stream:
    """The stream that numbers make.

    Args:
      numbers: Table -> one number an event; `again` -> one a second coming.
      of_rules: Of what the rules are made.
      kind: Of the stream.
    """
    events: dict[str, list[Event]] = {
        "search": [search(number, kind) for number in numbers["search"]]
    }
    for table in ("click", "conversion"):
        chosen = numbers[table] if events["search"] else []
        events[table] = [act(number, events["search"], table, kind) for number in chosen]
    for group in ("item", "user"):
        events[group] = [snapshot(number, group) for number in numbers[group]]
    for number in numbers["again"]:
        there = [table for table in events if events[table]]
        if there:
            table = Random(number).choice(there)
            events[table].append(again(number, events[table], table))
    return Stream(events, rules(of_rules))


NUMBERS = st.integers(0, 2**32)
MOST = {"search": 10, "click": 10, "conversion": 6, "item": 4, "user": 2, "again": 4}
LEAST = {"search": 4, "click": 4}


@st.composite
def streams(draw: st.DrawFn, kinds: tuple[Kind, ...] = (USUAL, USUAL, Kind(faults=0.5))) -> Stream:
    """Streams of some thirty events, in no order; hypothesis makes failing ones smaller."""
    numbers = {
        table: draw(st.lists(NUMBERS, min_size=LEAST.get(table, 0), max_size=most))
        for table, most in MOST.items()
    }
    return stream_of(numbers, draw(NUMBERS), draw(st.sampled_from(kinds)))


@st.composite
def alike(draw: st.DrawFn, *, most: int) -> list[Stream]:
    """Streams with the same rules and the same end of observation."""
    found = draw(st.lists(streams(), min_size=1, max_size=most))
    rules, until = found[0].rules, found[0].rules.until
    if until is None:
        until = max((event["time"] for stream in found for event in timed(stream)), default=0)
    rules = dataclasses.replace(rules, until=until)
    return [Stream(stream.events, rules) for stream in found]


def timed(stream: Stream) -> list[Event]:
    """Events whose time can be that of the end of observation."""
    events = [event for table in TABLES for event in stream.events[table]]
    return [event for event in events if identified(event)]


def apart(streams: list[Stream]) -> list[Stream]:
    """The streams with names of users, items and requests that end in the stream's number."""
    return [_named(stream, number) for number, stream in enumerate(streams)]


def _named(stream: Stream, number: int) -> Stream:
    def named(value: Any) -> Any:
        return [named(one) for one in value] if isinstance(value, list) else f"{value}.{number}"

    names = ("request_id", "user_id", "item_id", "items", "id")
    renamed = {
        table: [
            {k: named(v) if k in names and v is not None else v for k, v in event.items()}
            for event in rows
        ]
        for table, rows in stream.events.items()
    }
    forget = frozenset(map(named, stream.rules.forget))
    return Stream(renamed, dataclasses.replace(stream.rules, forget=forget))


def side_by_side(streams: list[Stream]) -> Stream:
    """All events of streams with the same rules in one."""
    events = {
        table: [event for stream in streams for event in stream.events[table]]
        for table in streams[0].events
    }
    forget = frozenset().union(*(stream.rules.forget for stream in streams))
    return Stream(events, dataclasses.replace(streams[0].rules, forget=forget))


def big_stream(seed: int, *, size: int, of_rules: int, kind: Kind = USUAL) -> Stream:
    """One stream of about three times `size` events, always the same of a seed."""
    rng = Random(seed)
    sizes = {"search": size, "click": size, "conversion": size // 2}
    sizes |= {"item": size // 8, "user": size // 8, "again": size // 4}
    numbers = {table: [rng.randrange(2**32) for _ in range(n)] for table, n in sizes.items()}
    return stream_of(numbers, of_rules, kind)
