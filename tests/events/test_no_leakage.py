"""The law of no leakage: what happens at or after a moment says nothing of earlier lists.

Changing, adding or deleting any events at or after t changes no feature and no history of a list
before t, nor whether it is there; its labels change only where its windows reach t. Acts at the
very moment of a list change nothing in it either, and what arrived later counts as little. The end
of observation is fixed, for it says which lists are held back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import reference
from event_streams import START, Kind, Stream, alike, apart, big_stream, side_by_side
from event_tables import built_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import DAY, Event, Rules, rebuild

from piano_tf.features import LABELS
from piano_tf.simulation import SimulationConfig
from piano_tf.simulation.events import MAPPING_FILE, write_events
from tfx_pipeline.events import reading
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.in_process import build

Made = Callable[[list[Stream]], list[Event]]

EVERY_TABLE = ("search", "click", "conversion", "item", "user")

# From the past of a table, its future and the future of another stream: the table with another
# future.
EDITS: dict[str, Callable[[list, list, list], list]] = {
    "deleted": lambda past, future, other: past,
    "half deleted": lambda past, future, other: [*past, *future[::2]],
    "added": lambda past, future, other: [*past, *future, *other],
    "changed": lambda past, future, other: [*past, *other],
}


@pytest.fixture(scope="module")
def by_job(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What the job makes of streams, side by side."""
    folder = tmp_path_factory.mktemp("leakage")

    def made(streams: list[Stream]) -> list[Event]:
        together = side_by_side(apart(streams))
        built = built_of(together, folder)
        return marked(built.lists.to_pylist(), built.held_back.to_pylist())

    return made


def by_reference(streams: list[Stream]) -> list[Event]:
    """What the reference makes of streams, one after the other."""
    rebuilt = [rebuild(stream.events, stream.rules) for stream in apart(streams)]
    return [row for one in rebuilt for row in marked(one.lists.values(), one.held_back.values())]


def marked(lists: Any, held_back: Any) -> list[Event]:
    """All lists, with whether they are held back."""
    return [{**row, "is held back": held} for held in (0, 1) for row in (lists, held_back)[held]]


# --- on random streams ---

ACTS = ("click", "conversion")


def time_of(event: Event) -> int:
    return event["valid_from"] if "valid_from" in event else event["time"]


def moments_of(streams: list[Stream], number: int) -> list[int]:
    """A moment of each stream, at which something happens."""
    found = []
    for stream in streams:
        times = sorted(time_of(event) for rows in stream.events.values() for event in rows)
        found.append(times[number % len(times)])
    return found


def prepared(streams: list[Stream], **rules: Any) -> list[Stream]:
    """The streams with an end of observation, and queries that say when it was, exactly."""
    found = []
    for stream in streams:
        until = stream.rules.until or START + 9 * DAY
        changed = dataclasses.replace(stream.rules, until=until, **rules)
        searches = [
            {**search, "query": f"{search['query']} {search['time']}"}
            for search in stream.events["search"]
        ]
        found.append(Stream({**stream.events, "search": searches}, changed))
    return found


def with_another_future(
    streams: list[Stream], moments: list[int], edit: str, *, of: Collection[str] = EVERY_TABLE
) -> list[Stream]:
    """The streams with other events from their moments on, in the tables `of`."""
    found = []
    for stream, t, other in zip(streams, moments, [*streams[1:], streams[0]], strict=True):
        events = dict(stream.events)
        for table in of:
            past = [event for event in events[table] if time_of(event) < t]
            future = [event for event in events[table] if time_of(event) >= t]
            foreign = [event for event in other.events[table] if time_of(event) >= t]
            events[table] = EDITS[edit](past, future, foreign)
        found.append(Stream(events, stream.rules))
    return found


def without_what_had_not_arrived(streams: list[Stream], moments: list[int]) -> list[Stream]:
    """The streams without acts that had not arrived; searches that had not are others.

    They are not left out, for acts that name no request are then of an older one.
    """

    def had_arrived(event: Event, t: int) -> bool:
        return event["time"] < t and (event["arrived_at"] is None or event["arrived_at"] < t)

    def as_known(search: Event, t: int) -> Event:
        return search if had_arrived(search, t) else {**search, "query": f"? {search['query']}"}

    found = []
    for stream, t in zip(streams, moments, strict=True):
        known = {k: [act for act in stream.events[k] if had_arrived(act, t)] for k in ACTS}
        searches = [as_known(search, t) for search in stream.events["search"]]
        found.append(Stream({**stream.events, **known, "search": searches}, stream.rules))
    return found


def as_shown(rows: list[Event], ends: list[int]) -> dict[str, Event]:
    """List id -> all that was known of a list when it was shown, of lists before their end."""
    return {
        row["list_id"]: {name: value for name, value in row.items() if name not in LABELS}
        for row in rows
        if moment(row) < ends[stream_number(row)]
    }


def settled(rows: list[Event], rules: Rules, ends: list[int]) -> dict[tuple, list[int]]:
    """(list, label) -> labels, of lists whose windows are over before their end."""
    others = [*rules.conversion_windows.values(), rules.default_conversion_window or 0]
    windows = {"click": max(rules.click_window, *others), "conversion": max(others)}
    return {
        (row["list_id"], label): row[label]
        for row in rows
        for label, window in windows.items()
        if moment(row) + window < ends[stream_number(row)]
    }


def moment(row: Event) -> int:
    return int(row["query"].split(" ")[-1])


def stream_number(row: Event) -> int:
    return int(row["list_id"].split(".")[-1])


def check_another_future(made: Made, streams: list[Stream], number: int, edit: str) -> None:
    streams = prepared(streams)
    moments = moments_of(streams, number)
    before, after = made(streams), made(with_another_future(streams, moments, edit))
    assert as_shown(before, moments) == as_shown(after, moments)
    rules = streams[0].rules
    assert settled(before, rules, moments) == settled(after, rules, moments)


def check_acts_at_the_moment(made: Made, streams: list[Stream], number: int, edit: str) -> None:
    streams = prepared(streams)
    moments = moments_of(streams, number)
    others = with_another_future(streams, moments, edit, of=ACTS)
    just_after = [t + 1 for t in moments]
    assert as_shown(made(streams), just_after) == as_shown(made(others), just_after)


def check_late_arrivals(made: Made, streams: list[Stream], number: int) -> None:
    """Without a limit: what arrives late may be what is over it, as the day's order is of times."""
    streams = prepared(streams, events_per_user_day=None)
    moments = moments_of(streams, number)
    others = without_what_had_not_arrived(streams, moments)
    just_after = [t + 1 for t in moments]
    before, after = (as_shown(made(events), just_after) for events in (streams, others))
    for row in (*before.values(), *after.values()):
        row["query"] = moment(row)  # what a search itself asks may be another thing
    assert before == after


CHECKS = [check_another_future, check_acts_at_the_moment, check_late_arrivals]
LAW = given(alike(most=8), st.integers(0, 10**6), st.sampled_from([*EDITS]))


def check(which: Callable, made: Made, streams: list[Stream], number: int, edit: str) -> None:
    which(made, streams, number, *([] if which is check_late_arrivals else [edit]))


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@LAW
def test_the_rules_keep_the_law(streams: list[Stream], number: int, edit: str) -> None:
    for which in CHECKS:
        check(which, by_reference, streams, number, edit)


@pytest.mark.parametrize("which", CHECKS)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@LAW
def test_the_job_keeps_the_law(
    by_job: Made, which: Callable, streams: list[Stream], number: int, edit: str
) -> None:
    check(which, by_job, streams, number, edit)


# --- a law that nobody can break says nothing ---


def some_streams() -> list[Stream]:
    """Streams with the same rules, each of some fifty events and few faults."""
    rules = big_stream(0, size=1, of_rules=0).rules
    rules = dataclasses.replace(rules, click_window=2 * DAY, default_conversion_window=DAY)
    rules = dataclasses.replace(
        rules, history_length=50, retention=None, forget=frozenset(), events_per_user_day=None
    )
    return [
        Stream(big_stream(number, size=16, of_rules=0, kind=Kind(faults=0.02)).events, rules)
        for number in range(15)
    ]


def history_of_the_same_moment(now: Event, pairs: list) -> list[Event]:
    return HISTORY({**now, "time": now["time"] + 1}, pairs)


def history_before_it_arrives(now: Event, pairs: list) -> list[Event]:
    return HISTORY(now, [(search, {**act, "arrived_at": None}) for search, act in pairs])


def history_before_its_search_arrives(now: Event, pairs: list) -> list[Event]:
    arrived = {id(search): {**search, "arrived_at": None} for search, _ in pairs}
    return HISTORY(now, [(arrived[id(search)], act) for search, act in pairs])


def tomorrows_features(snapshots: list[Event], id: str, t: int, name: str, types: dict) -> Any:
    return AS_OF(snapshots, id, t + DAY, name, types)


HISTORY, AS_OF = reference.history, reference.as_of


@pytest.mark.parametrize(
    ("which", "part", "leak"),
    [
        (check_acts_at_the_moment, "history", history_of_the_same_moment),
        (check_late_arrivals, "history", history_before_it_arrives),
        (check_late_arrivals, "history", history_before_its_search_arrives),
        (check_another_future, "as_of", tomorrows_features),
    ],
)
def test_a_leak_is_found(
    monkeypatch: pytest.MonkeyPatch, which: Callable, part: str, leak: Callable
) -> None:
    streams, numbers = some_streams(), (20, 25, 30)
    for number in numbers:
        check(which, by_reference, streams, number, "deleted")
    monkeypatch.setattr(reference, part, leak)
    with pytest.raises(AssertionError):
        for number in numbers:
            check(which, by_reference, streams, number, "deleted")


def test_labels_change_within_their_windows() -> None:
    streams = prepared(some_streams())
    moments = moments_of(streams, 25)
    others = with_another_future(streams, moments, "deleted")
    before, after = by_reference(streams), by_reference(others)
    assert len(settled(before, streams[0].rules, moments)) > 20
    clicks = {row["list_id"]: row["click"] for row in before}
    assert sum(clicks[row["list_id"]] != row["click"] for row in after) > 10


# --- in the simulated world ---

WORLD = SimulationConfig.model_validate(
    {
        "lists": 800,
        "days": 8,
        "days_after": 0,
        "history": 20,
        "listeners": {"count": 25},
        "catalogue": {"tracks": 200, "artists": 30, "genres": 6, "moods": 3, "new_albums": 0.3},
        "first_stage": {"pool": 40},
        "seed": 5,
    }
)


def world_tables(folder: Path, world: SimulationConfig) -> tuple[dict[str, pa.Table], EventsConfig]:
    """A world's events in canonical columns, and its mapping."""
    write_events(world, folder)
    config = EventsConfig.load(folder / MAPPING_FILE)
    tables = {}
    for kind in ("search", "click", "conversion", "item", "user"):
        files = sorted((folder / kind).iterdir())
        assert len(files) > 1 or kind == "user"
        parts = [part.table for file in files for part in reading.read(file, kind, config)]
        tables[kind] = pa.concat_tables(parts)
    return tables, config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, pa.Table], EventsConfig]:
    return world_tables(tmp_path_factory.mktemp("world") / "events", WORLD)


@pytest.fixture(scope="module")
def other_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """Another world, whose listeners, tracks and requests have the same names."""
    other = WORLD.model_copy(update={"seed": 6})
    return world_tables(tmp_path_factory.mktemp("other") / "events", other)[0]


def split(table: pa.Table, t: int) -> tuple[pa.Table, pa.Table]:
    """What was before a moment, and what was not."""
    times = table["valid_from" if "valid_from" in table.schema.names else "time"]
    is_past = pc.less(times, t)
    return table.filter(is_past), table.filter(pc.invert(is_past))


@pytest.mark.parametrize("of_list", [100, 401, 700])
@pytest.mark.parametrize("edit", ["deleted", "added", "changed"])
def test_the_law_in_the_simulated_world(world, other_world, edit: str, of_list: int) -> None:
    tables, config = world
    t = tables["search"]["time"][of_list].as_py()  # the first list that may change
    changed = {}
    for kind, table in tables.items():
        past, future = split(table, t)
        foreign = split(other_world[kind], t)[1]
        changed[kind] = pa.concat_tables(EDITS[edit]([past], [future], [foreign]))
    before, after = build(tables, config).lists, build(changed, config).lists
    for name in before.schema.names:
        # The world dates every act at its list, so that even labels are settled at once.
        assert before[name].slice(0, of_list) == after[name].slice(0, of_list), name
    if edit == "deleted":
        assert after.num_rows == of_list
    else:
        assert before.slice(of_list, 50) != after.slice(of_list, 50)
