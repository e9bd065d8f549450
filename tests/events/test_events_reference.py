"""The job against a slow and obvious reference, on thousands of random streams."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from event_streams import (
    HISTORY_ITEM,
    HOUR,
    SECOND,
    START,
    TYPES,
    Kind,
    Stream,
    alike,
    apart,
    big_stream,
    side_by_side,
)
from event_tables import (
    built_of,
    expected_letters,
    found_letters,
    mapping_of,
    rows_in,
    write_files,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import DAY, Event, Rebuilt, Rules, rebuild

from piano_tf.data.logs import check_log
from piano_tf.data.splits import ByDate
from piano_tf.features import SPLITS
from tfx_pipeline.events import acts, formats, history, job, ordering, shuffle, stages
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.dead_letters import Reason
from tfx_pipeline.events.job import run

EXAMPLES = 400  # of up to a dozen streams each


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forget")


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(streams=alike(most=12), days_at_once=st.sampled_from([None, 1, 2]))
def test_the_rules_give_what_the_reference_gives(
    folder: Path, streams: list[Stream], days_at_once: int | None
) -> None:
    """The job takes several streams at once, the reference one after the other."""
    streams = apart(streams)
    together = side_by_side(streams)
    built = built_of(together, folder, days_at_once=days_at_once)
    alone = [rebuild(stream.events, stream.rules) for stream in streams]

    assert built.lists.to_pylist() == in_order(alone, "lists")
    assert built.held_back.to_pylist() == in_order(alone, "held_back")
    letters = sum((expected_letters(rebuilt) for rebuilt in alone), Counter())
    assert found_letters(built.dead_letters.to_pylist()) == letters
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


# --- the whole job on files ---

RULES: dict[str, Rules] = {
    "plain": Rules(until=START + 9 * DAY, history_length=5),
    "limited": Rules(
        until=START + 5 * DAY,
        events_per_user_day=5,
        click_window=HOUR,
        conversion_windows={"buy": 2 * DAY},
    ),
    "private": Rules(
        until=START + 4 * DAY,
        retention=3 * DAY + DAY // 2,
        forget=frozenset(["ann"]),
        salt="sea",
        conversion_windows={"buy": HOUR, "play": DAY},
        default_conversion_window=None,
    ),
}
FORMATS = [("parquet",), ("parquet",), ("csv", "jsonl")]


@pytest.mark.parametrize("which", RULES)
def test_the_whole_job_gives_the_same_whatever_the_files(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of other sizes, names, orders and formats, read together or not, in other shards."""
    rules = dataclasses.replace(RULES[which], **TYPES, history_item=HISTORY_ITEM)
    seed = 1 + [*RULES].index(which)
    stream = dataclasses.replace(big_stream(seed, size=60, of_rules=0), rules=rules)
    rebuilt = rebuild(stream.events, rules)
    outputs = []
    for number, of_files in enumerate(FORMATS):
        source = write_files(tmp_path / f"in-{number}", stream, number, formats=of_files)
        shards = (1, 3, 16)[number]
        monkeypatch.setattr(job, "_BYTES_AT_ONCE", (1 << 25, 1, 5_000)[number])
        config = EventsConfig.model_validate({**mapping_of(rules, tmp_path), "shards": shards})
        output = tmp_path / f"out-{number}"
        said = run(source, config, output, CUT)
        assert found_counts(said) == expected_counts(stream, rebuilt)
        outputs.append(bytes_of(output))
    assert outputs[1] == outputs[0]
    # Of rows that could not be read the letters say what was in the file, which a format may shape.
    for output_bytes in outputs:
        for table in stream.events:
            output_bytes.pop(f"dead_letters/{table}.parquet")
    assert outputs[2] == outputs[0]

    assert {name for name in outputs[0] if "/" in name} >= {
        "train/2024-01-01.parquet",
        "validation/2024-01-02.parquet",
        "test/2024-01-03.parquet",
        "held_back/2024-01-04.parquet" if which != "plain" else "test/2024-01-04.parquet",
    }
    rows = [row for split in SPLITS for row in rows_in(output / split)]
    assert rows == in_order([rebuilt], "lists")
    assert rows_in(output / "held_back") == in_order([rebuilt], "held_back")
    assert found_letters(rows_in(output / "dead_letters")) == expected_letters(rebuilt)
    for split in SPLITS:
        for file in (output / split).iterdir():
            days = {row["timestamp"] * SECOND // DAY for row in rows_in(file)}
            assert [str(np.datetime64(day, "D")) for day in days] == [file.stem]
    assert sum(check_log(output).lists.values()) == len(rebuilt.lists)


SLICES = [
    (job, "_BYTES_AT_ONCE"),
    (ordering, "_ROWS_AT_ONCE"),
    (acts, "_ACTS_AT_ONCE"),
    (shuffle, "_ROWS_AT_ONCE"),
    (stages, "_ROWS_AT_ONCE"),
    (stages, "_LISTS_AT_ONCE"),
    (history, "_AT_ONCE"),
    (formats, "_ROWS"),
]


@pytest.mark.parametrize("which", RULES)
def test_the_size_of_slices_changes_nothing(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = dataclasses.replace(RULES[which], **TYPES, history_item=HISTORY_ITEM)
    stream = dataclasses.replace(big_stream(7, size=60, of_rules=0), rules=rules)
    source = write_files(tmp_path / "in", stream, 7, formats=("parquet", "csv", "jsonl"))
    config = EventsConfig.model_validate({**mapping_of(rules, tmp_path), "shards": 2})
    run(source, config, tmp_path / "usual", CUT)
    for module, name in SLICES:
        assert getattr(module, name) > 1_000
        monkeypatch.setattr(module, name, 7)
    run(source, config, tmp_path / "small", CUT)
    usual, small = (bytes_of(tmp_path / name) for name in ("usual", "small"))
    assert usual.keys() == small.keys()
    of_lists = [name for name in usual if name.startswith((*SPLITS, "held_back"))]
    for name in of_lists:  # each slice is a row group
        file = pq.ParquetFile(tmp_path / "small" / name)
        assert file.num_row_groups >= file.metadata.num_rows / 7
        assert file.read().equals(pq.read_table(tmp_path / "usual" / name)), name
        del usual[name], small[name]
    assert len(of_lists) >= 4
    assert small == usual


CUT = ByDate(dt.date(2024, 1, 2), dt.date(2024, 1, 3))


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of an output: where it is -> what is in it."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def found_counts(said: dict[str, Any]) -> dict[str, dict]:
    return said["events"]


def expected_counts(stream: Stream, rebuilt: Rebuilt) -> dict[str, dict]:
    used = used_of(rebuilt)
    found = {}
    for table, rows in stream.events.items():
        dead = Counter(reason for event, reason in rebuilt.dead if event["table"] == table)
        found[table] = {"read": len(rows), "used": used[table], "dead letters": dict(dead)}
    return found


def in_order(alone: list[Rebuilt], which: str) -> list[Event]:
    """Lists of several streams in the order of files."""
    rows = [row for rebuilt in alone for row in getattr(rebuilt, which).values()]
    return sorted(rows, key=lambda row: (row["timestamp"], row["list_id"]))


def used_by_kind(counts: dict[str, dict]) -> Counter[str]:
    return Counter({kind: found["used"] for kind, found in counts.items() if found["used"]})


def used_of(rebuilt: Rebuilt) -> Counter[str]:
    return Counter(event["table"] for event in rebuilt.used)
