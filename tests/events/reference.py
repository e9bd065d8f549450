"""From raw events to shown lists, slowly and obviously: what the job is held to.

Plain lists of dicts in, plain lists of dicts out; every question is answered by looking through all
events again. It is written from the rules of docs/events.md and shares no code with the job. Times
are whole microseconds, absent values are None.

A search is a dict of request_id, user_id, time, query, items, scores, context and arrived_at; a
click or conversion of request_id, user_id, item_id, time, arrived_at and kind; a snapshot of an
item or user of id, valid_from and features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from typing import Any

Event = dict[str, Any]

DAY = 86_400_000_000
TABLES = ("search", "click", "conversion")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the mapping file says, in microseconds.

    Attributes:
      click_window: A click may come this long after its search.
      conversion_windows: The same per kind of conversion.
      default_conversion_window: Of kinds that are not named; None knows no others.
      history_length: Entries kept.
      until: End of observation; None is the newest event's time.
      events_per_user_day: Of each user on each UTC day; None is without end.
      retention: Events older than this at `until` are not used; None keeps all.
      forget: Users of whom nothing may be used.
      salt: Of the user ids' hash; None leaves them as they are.
      scored: Whether searches have first-stage scores.
      context, item, user: Name -> `string` or `float` of the features.
      history_item: Names of item features that history entries carry.
    """

    click_window: int = DAY
    conversion_windows: dict[str, int] = dataclasses.field(default_factory=dict)
    default_conversion_window: int | None = DAY
    history_length: int = 50
    until: int | None = None
    events_per_user_day: int | None = None
    retention: int | None = None
    forget: frozenset[str] = frozenset()
    salt: str | None = None
    scored: bool = True
    context: dict[str, str] = dataclasses.field(default_factory=dict)
    item: dict[str, str] = dataclasses.field(default_factory=dict)
    user: dict[str, str] = dataclasses.field(default_factory=dict)
    history_item: tuple[str, ...] = ()

    def window(self, act: Event) -> int | None:
        """How long after its search an act may come; None where its kind is unknown."""
        if act["table"] == "click":
            return self.click_window
        return self.conversion_windows.get(act["kind"], self.default_conversion_window)

    def longest_window(self) -> int:
        windows = [self.click_window, *self.conversion_windows.values()]
        return max([*windows, self.default_conversion_window or 0])


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """What the rules make of a stream.

    Attributes:
      lists: request id -> row, as the contract has it, of lists that are mature.
      held_back: The same of the lists whose windows are not over.
      used: Events that made a list or a label.
      dead: (event, reason) of all others.
    """

    lists: dict[str, Event]
    held_back: dict[str, Event]
    used: list[Event]
    dead: list[tuple[Event, str]]


def rebuild(streams: dict[str, list[Event]], rules: Rules) -> Rebuilt:
    """Applies every rule, one after the other.

    Args:
      streams: `search`, `click`, `conversion`, `item` and `user` -> events in any order.
      rules: What the mapping file says.
    """
    events = [{**event, "table": table} for table in TABLES for event in streams[table]]
    dead: list[tuple[Event, str]] = []

    def remove(wrong: Callable[[Event], bool], reason: str, *, among: Iterable[str]) -> None:
        """Every event of these tables of which `wrong` holds becomes a dead letter."""
        found = [event for event in events if event["table"] in among and wrong(event)]
        for event in found:
            events[:] = [other for other in events if other is not event]
            dead.append((event, reason))

    acts = ("click", "conversion")

    # Privacy. Who is to be forgotten is so before anything else is said of an event.
    forgotten = [
        event for event in events if event["table"] == "search" and event["user_id"] in rules.forget
    ]
    remove(lambda event: event["user_id"] in rules.forget, "forgotten", among=TABLES)
    until = rules.until
    if until is None:
        until = max([event["time"] for event in events if identified(event)], default=0)
    for event in events:
        event["user_id"] = hashed(event["user_id"], rules.salt)

    def is_old(event: Event) -> bool:
        return rules.retention is not None and event["time"] < until - rules.retention

    # Searches.
    remove(is_old, "older than retention", among=["search"])
    remove(lambda search: not search["items"], "empty list", among=["search"])
    remove(
        lambda search: len(set(search["items"])) < len(search["items"]),
        "item shown twice",
        among=["search"],
    )
    remove(
        lambda search: rules.scored and len(search["scores"]) != len(search["items"]),
        "scores do not match items",
        among=["search"],
    )

    def searches() -> list[Event]:
        return [event for event in events if event["table"] == "search"]

    def first_of(request_id: str) -> Event:
        same = [search for search in searches() if search["request_id"] == request_id]
        return min(same, key=lambda search: search_order(search, rules.context))

    kept = [first_of(request_id) for request_id in {s["request_id"] for s in searches()}]

    def repeats(search: Event) -> bool:
        return all(search is not one for one in kept)

    remove(
        lambda search: repeats(search) and any(came_again(search, one) for one in kept),
        "duplicate",
        among=["search"],
    )
    remove(repeats, "request id used twice", among=["search"])

    # Acts. Those that name a forgotten user's request alone are forgotten with it, unless somebody
    # else had used its id before.
    def is_forgotten(request_id: str) -> bool:
        return any(
            search["request_id"] == request_id
            and not any(
                one["request_id"] == request_id and moment_of(one) < moment_of(search)
                for one in kept
            )
            for search in forgotten
        )

    remove(
        lambda act: act["user_id"] is None and is_forgotten(act["request_id"]),
        "forgotten",
        among=acts,
    )
    remove(lambda act: not identified(act), "missing value", among=acts)
    remove(is_old, "older than retention", among=acts)
    remove(lambda act: rules.window(act) is None, "unknown kind", among=acts)
    for act in [event for event in events if event["table"] in acts]:
        same = [event for event in events if came_again(event, act)]
        if min(same, key=lambda event: absent_first(event["arrived_at"])) is not act:
            remove(lambda event, act=act: event is act, "duplicate", among=acts)

    def request(act: Event) -> Event | None:
        """The search that an act names."""
        named = [s for s in searches() if s["request_id"] == act["request_id"]]
        return named[0] if named else None

    def of_request(wrong: Callable[[Event, Event], bool]) -> Callable[[Event], bool]:
        """Whether something is wrong between an act and the search that it names."""

        def is_wrong(act: Event) -> bool:
            search = request(act)
            return act["request_id"] is not None and search is not None and wrong(act, search)

        return is_wrong

    def unknown_request(act: Event) -> bool:
        return act["request_id"] is not None and request(act) is None

    remove(unknown_request, "unknown request", among=acts)
    remove(
        of_request(lambda act, search: act["user_id"] not in (None, search["user_id"])),
        "another user's request",
        among=acts,
    )
    remove(
        of_request(lambda act, search: act["item_id"] not in search["items"]),
        "item not shown",
        among=acts,
    )
    remove(
        of_request(lambda act, search: act["time"] < search["time"]),
        "before its request",
        among=acts,
    )
    remove(
        of_request(lambda act, search: act["time"] > search["time"] + rules.window(act)),
        "outside the window",
        among=acts,
    )

    # The limit, and what falls with a search that is beyond it.
    def owner(event: Event) -> str:
        by_request = event["table"] != "search" and event["request_id"] is not None
        return (request(event) if by_request else event)["user_id"]

    if rules.events_per_user_day is not None:
        days = [(event, (owner(event), event["time"] // DAY)) for event in events]
        beyond = []
        for event, day in days:
            same_day = sorted([one for one, its_day in days if its_day == day], key=event_order)
            place = next(n for n, one in enumerate(same_day) if one is event)
            if place >= rules.events_per_user_day:
                beyond.append(event)
        remove(lambda event: any(event is one for one in beyond), "over the limit", among=TABLES)
        remove(unknown_request, "unknown request", among=acts)

    # Attribution.
    def attributed(act: Event) -> Event | None:
        """The search of an act: the one that it names, else the newest that it may belong to."""
        if act["request_id"] is not None:
            return request(act)
        possible = [
            search
            for search in searches()
            if search["user_id"] == act["user_id"]
            and act["item_id"] in search["items"]
            and search["time"] <= act["time"] <= search["time"] + rules.window(act)
        ]
        return max(possible, key=lambda s: (s["time"], s["request_id"]), default=None)

    remove(lambda act: attributed(act) is None, "no request within the window", among=acts)
    pairs = [(attributed(act), act) for act in events if act["table"] in acts]

    # Snapshots: one holds from a moment on.
    snapshots = snapshots_of(streams, rules, dead)

    # The lists.
    def row(search: Event) -> Event:
        t = search["time"]
        past = history(search, pairs)[: rules.history_length]
        own = [act for of, act in pairs if of is search]
        clicked = {act["item_id"] for act in own}  # a conversion implies a click
        converted = {act["item_id"] for act in own if act["table"] == "conversion"}

        def item(name: str, item_id: str) -> Any:
            return as_of(snapshots["item"], item_id, t, name, rules.item)

        def user(name: str) -> Any:
            return as_of(snapshots["user"], search["user_id"], t, name, rules.user)

        return {
            "list_id": search["request_id"],
            "user_id": search["user_id"],
            "query": search["query"],
            "timestamp": t // 1_000_000,
            **{f"user_{name}": user(name) for name in rules.user},
            **{f"context_{name}": search["context"][name] for name in rules.context},
            "item_id": search["items"],
            **({"initial_score": search["scores"]} if rules.scored else {}),
            **{f"item_{n}": [item(n, shown) for shown in search["items"]] for n in rules.item},
            "history_query": [entry["query"] for entry in past],
            "history_item_id": [entry["item_id"] for entry in past],
            "history_action": [entry["action"] for entry in past],
            "history_age": [float32((t - entry["moment"]) / DAY) for entry in past],
            **{
                f"history_item_{name}": [item(name, entry["item_id"]) for entry in past]
                for name in rules.history_item
            },
            "click": [int(shown in clicked) for shown in search["items"]],
            "conversion": [int(shown in converted) for shown in search["items"]],
        }

    lists, held_back = {}, {}
    for search in searches():
        is_mature = search["time"] + rules.longest_window() <= until
        (lists if is_mature else held_back)[search["request_id"]] = row(search)
    used = [*events, *snapshots["item"], *snapshots["user"]]
    return Rebuilt(lists, held_back, used, dead)


def history(now: Event, pairs: list[tuple[Event, Event]]) -> list[Event]:
    """What the user of a search had acted on before it, as far as was known then; newest first."""
    t = now["time"]
    known = [
        (search, act)
        for search, act in pairs
        if search["user_id"] == now["user_id"]
        and act["time"] < t
        and all(event["arrived_at"] is None or event["arrived_at"] < t for event in (search, act))
    ]
    entries = []
    for search in {id(search): search for search, _ in known}.values():
        for position, item_id in enumerate(search["items"]):
            acts = [act for of, act in known if of is search and act["item_id"] == item_id]
            if acts:
                moment = min(act["time"] for act in acts)
                converted = any(act["table"] == "conversion" for act in acts)
                entries.append(
                    {
                        "query": search["query"],
                        "item_id": item_id,
                        "action": "conversion" if converted else "click",
                        "moment": moment,
                        "order": (moment, search["time"], search["request_id"], position),
                    }
                )
    return sorted(entries, key=lambda entry: entry["order"], reverse=True)


def snapshots_of(
    streams: dict[str, list[Event]], rules: Rules, dead: list[tuple[Event, str]]
) -> dict[str, list[Event]]:
    """Snapshots of which no two are of the same moment: the last of these by what they say."""
    found: dict[str, list[Event]] = {"item": [], "user": []}
    for table, types in (("item", rules.item), ("user", rules.user)):
        for snapshot in [{**snapshot, "table": table} for snapshot in streams[table]]:
            if table == "user" and snapshot["id"] in rules.forget:
                dead.append((snapshot, "forgotten"))
                continue
            if table == "user":
                snapshot["id"] = hashed(snapshot["id"], rules.salt)
            found[table].append(snapshot)
        for snapshot in list(found[table]):
            same = [one for one in found[table] if one == snapshot]
            if same[0] is not snapshot:
                found[table] = [one for one in found[table] if one is not snapshot]
                dead.append((snapshot, "duplicate"))
        for snapshot in list(found[table]):
            moment = (snapshot["id"], snapshot["valid_from"])
            of_then = [one for one in found[table] if (one["id"], one["valid_from"]) == moment]
            if snapshot is not max(of_then, key=lambda one: [one["features"][n] for n in types]):
                found[table] = [one for one in found[table] if one is not snapshot]
                dead.append((snapshot, "another snapshot of that time"))
    return found


def as_of(snapshots: list[Event], id: str, t: int, name: str, types: dict[str, str]) -> Any:
    """A feature of the newest snapshot that held at `t`; "" or 0.0 where there is none."""
    known = [one for one in snapshots if one["id"] == id and one["valid_from"] <= t]
    if not known:
        return "" if types[name] == "string" else 0.0
    return max(known, key=lambda one: one["valid_from"])["features"][name]


def identified(event: Event) -> bool:
    """Whether an event says whose it is, by its request or its user."""
    return event["request_id"] is not None or event["user_id"] is not None


def came_again(event: Event, other: Event) -> bool:
    """Whether two are the same in all but their arrival."""
    return {**event, "arrived_at": None} == {**other, "arrived_at": None}


def absent_first(value: Any) -> tuple[bool, Any]:
    """A key that sorts what is absent before all that is there."""
    return (value is not None, value if value is not None else 0)


def moment_of(search: Event) -> tuple[Any, ...]:
    """When a search was, and when it arrived."""
    return (search["time"], absent_first(search["arrived_at"]))


def search_order(search: Event, context: Iterable[str]) -> tuple[Any, ...]:
    """The canonical order of searches with the same request id."""
    return (
        *moment_of(search),
        search["user_id"],
        search["query"],
        search["items"],
        search["scores"],
        [search["context"][name] for name in context],
    )


def event_order(event: Event) -> tuple[Any, ...]:
    """The canonical order of a user's events; request ids are unique among kept searches."""
    place = (event["time"], TABLES.index(event["table"]), absent_first(event["request_id"]))
    if event["table"] == "search":
        return place
    return (
        *place,
        event["item_id"],
        absent_first(event["kind"]),
        absent_first(event["user_id"]),
    )


def hashed(user_id: str | None, salt: str | None) -> str | None:
    """What stands for a user where a salt is given."""
    if salt is None or user_id is None:
        return user_id
    return hmac.new(salt.encode(), user_id.encode(), hashlib.sha256).hexdigest()[:32]


def float32(value: float) -> float:
    """The nearest number of single precision."""
    return struct.unpack("f", struct.pack("f", value))[0]
