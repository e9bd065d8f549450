"""The job against a slow and obvious reference, on thousands of random streams."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from event_streams import Kind, Stream, alike, apart, big_stream, side_by_side
from event_tables import SALT, expected_letters, found_letters, mapping_of, tables_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Event, Rebuilt, rebuild

from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.dead_letters import Reason
from tfx_pipeline.events.in_process import build

EXAMPLES = 400  # of up to a dozen streams each


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forget")


@pytest.fixture(scope="module", autouse=True)
def salt() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SALT, "sea")
        yield


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(streams=alike(most=12), days_at_once=st.sampled_from([None, 1, 2]))
def test_the_rules_give_what_the_reference_gives(
    folder: Path, streams: list[Stream], days_at_once: int | None
) -> None:
    """The job takes several streams at once, the reference one after the other."""
    streams = apart(streams)
    together = side_by_side(streams)
    config = EventsConfig.model_validate(mapping_of(together.rules, folder))
    built = build(tables_of(together, config), config, days_at_once=days_at_once)
    alone = [rebuild(stream.events, stream.rules) for stream in streams]

    assert built.lists.to_pylist() == in_order(alone, "lists")
    assert built.held_back.to_pylist() == in_order(alone, "held_back")
    letters = sum((expected_letters(rebuilt) for rebuilt in alone), Counter())
    assert found_letters(built.dead_letters) == letters
    assert used_by_kind(built.counts) == sum((used_of(rebuilt) for rebuilt in alone), Counter())
    for table, rows in together.events.items():
        dead = sum(count for (kind, *_), count in letters.items() if kind == table)
        assert used_by_kind(built.counts)[table] + dead == len(rows)


def test_random_streams_come_upon_every_rule() -> None:
    """Or the test above would prove less than it says."""
    met: Counter[str] = Counter()
    for seed in range(200):
        stream = big_stream(seed, size=12, of_rules=seed, kind=Kind(faults=0.3))
        rebuilt = rebuild(stream.events, stream.rules)
        met.update(reason for _, reason in rebuilt.dead)
        rows = [*rebuilt.lists.values(), *rebuilt.held_back.values()]
        met["mature"] += len(rebuilt.lists)
        met["held back"] += len(rebuilt.held_back)
        for label in ("click", "conversion"):
            met[label] += sum(sum(row[label]) for row in rows)
            met[f"past {label}"] += sum(row["history_action"].count(label) for row in rows)
        met["whole history"] += sum(len(row["history_age"]) > 2 for row in rows)
        met["a feature's past"] += sum(any(row["history_item_price"]) for row in rows)
    at_reading = {Reason.UNREADABLE_FILE, Reason.NOT_READABLE, Reason.NOT_UTF8, Reason.OUT_OF_RANGE}
    for reason in set(Reason) - at_reading:
        met[reason.value] += 0
    assert min(met.values()) >= 20, met


def in_order(alone: list[Rebuilt], which: str) -> list[Event]:
    """Lists of several streams in the order of files."""
    rows = [row for rebuilt in alone for row in getattr(rebuilt, which).values()]
    return sorted(rows, key=lambda row: (row["timestamp"], row["list_id"]))


def used_by_kind(counts: dict[str, dict]) -> Counter[str]:
    return Counter({kind: found["used"] for kind, found in counts.items() if found["used"]})


def used_of(rebuilt: Rebuilt) -> Counter[str]:
    return Counter(event["table"] for event in rebuilt.used)
