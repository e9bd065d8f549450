"""Random streams in the shape that the job reads, and what it made of them in the reference's."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from event_streams import SECOND, Stream
from reference import DAY, Event, Rebuilt, Rules

from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.in_process import Built, build
from tfx_pipeline.events.tables import schemas

SALT = "PIANO_TEST_SALT"
_ACT = {
    "request_id": pa.string(),
    "user_id": pa.string(),
    "item_id": pa.string(),
    "time": pa.int64(),
    "arrived_at": pa.int64(),
}
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "search": {
        "request_id": pa.string(),
        "user_id": pa.string(),
        "time": pa.int64(),
        "query": pa.string(),
        "item_id": pa.list_(pa.string()),
        "initial_score": pa.list_(pa.float64()),
        "arrived_at": pa.int64(),
        "device": pa.string(),
        "hour": pa.float64(),
    },
    "click": _ACT,
    "conversion": {**_ACT, "kind": pa.string()},
    "item": {
        "item_id": pa.string(),
        "valid_from": pa.int64(),
        "brand": pa.string(),
        "price": pa.float64(),
    },
    "user": {
        "user_id": pa.string(),
        "valid_from": pa.int64(),
        "country": pa.string(),
        "plays": pa.float64(),
    },
}
Letter = tuple[Any, ...]
# Reasons of letters whose other columns say nothing: it may not be kept, or is not known.
BARE = ("forgotten", "older than retention", "missing value")


def mapping_of(rules: Rules, folder: Path) -> dict[str, Any]:
    """The mapping file that says these rules.

    Args:
      rules: The rules.
      folder: For the list of users to forget.
    """
    time = {"time": "time", "arrived_at": "arrived_at"}
    act = {"request_id": "request_id", "user_id": "user_id", "item_id": "item_id", **time}

    def declared(features: dict[str, str]) -> dict[str, dict[str, str]]:
        return {name: {"column": name, "type": type} for name, type in features.items()}

    found: dict[str, Any] = {
        "dataset": "random",
        "time_unit": "us",
        "search": {
            "columns": {**act, "query": "query"}
            | ({"initial_score": "initial_score"} if rules.scored else {}),
            "context": declared(rules.context),
        },
        "click": {"columns": act},
        "conversion": {"columns": {**act, "kind": "kind"}},
        "item": {"features": declared(rules.item)},
        "user": {"features": declared(rules.user)},
        "history_item": list(rules.history_item),
        "attribution": {
            "click_window": rules.click_window / SECOND,
            "conversion_windows": {k: w / SECOND for k, w in rules.conversion_windows.items()},
        },
        "history_length": rules.history_length,
        "limits": {"events_per_user_day": rules.events_per_user_day},
        "privacy": {},
    }
    if rules.default_conversion_window is not None:
        window = rules.default_conversion_window / SECOND
        found["attribution"]["default_conversion_window"] = window
    if rules.until is not None:
        found["until"] = rules.until / SECOND
    if rules.retention is not None:
        found["privacy"]["retention_days"] = rules.retention / DAY
    if rules.salt is not None:
        found["privacy"]["salt_env"] = SALT
    if rules.forget:
        file = folder / "-".join(["forget", *sorted(rules.forget)])
        file.write_text("".join(f"{user}\n" for user in sorted(rules.forget)), encoding="utf-8")
        found["privacy"]["forget"] = str(file)
    return found


def rows_of(table: str, events: list[Event]) -> list[Event]:
    """Events of a table as rows in canonical columns."""
    if table == "search":
        return [
            {name: event[name] for name in ("request_id", "user_id", "time", "query", "arrived_at")}
            | {"item_id": event["items"], "initial_score": event["scores"]}
            | {f"context_{name}": value for name, value in event["context"].items()}
            for event in events
        ]
    if table in ("item", "user"):
        return [
            {f"{table}_id": event["id"], "valid_from": event["valid_from"]}
            | {f"{table}_{name}": value for name, value in event["features"].items()}
            for event in events
        ]
    return events


def tables_of(stream: Stream, config: EventsConfig) -> dict[str, pa.Table]:
    """Canonical tables of a stream."""
    return {
        table: pa.Table.from_pylist(rows_of(table, stream.events[table]), schema=schema)
        for table, schema in schemas(config).items()
    }


def built_of(stream: Stream, folder: Path, *, days_at_once: int | None = None) -> Built:
    """What the job's rules make of a stream; `folder` is for the list of users to forget."""
    config = EventsConfig.model_validate(mapping_of(stream.rules, folder))
    return build(tables_of(stream, config), config, days_at_once=days_at_once)


def file_rows(table: str, events: list[Event]) -> list[Event]:
    """Events of a table as rows in the columns of the mapping's files."""

    def plain(name: str) -> str:
        known = ("item_id", "user_id")
        prefixes = ("context_", "item_", "user_")
        found = [name.removeprefix(one) for one in prefixes if name.startswith(one)]
        return found[0] if found and name not in known else name

    hidden = ("table", *(["kind"] if table != "conversion" else []))
    return [
        {plain(name): value for name, value in row.items() if name not in hidden}
        for row in rows_of(table, events)
    ]


def write_files(folder: Path, stream: Stream, seed: int, *, formats: tuple[str, ...]) -> Path:
    """Writes events in any order, into files of any number, size and name.

    Args:
      folder: To make.
      stream: Events.
      seed: Of the order and the files.
      formats: Of the files, at random.
    """
    rng = Random(seed)
    for table, events in stream.events.items():
        (folder / table).mkdir(parents=True)
        rows = file_rows(table, events)
        rng.shuffle(rows)
        cuts = sorted(rng.randrange(len(rows) + 1) for _ in range(rng.randrange(4)))
        for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            file = folder / table / f"{rng.randrange(2**40):x}.{rng.choice(formats)}"
            write_file(file, table, rows[start:end])
    return folder


def write_file(file: Path, table: str, rows: list[Event]) -> None:
    """Writes rows as Parquet, JSON lines or CSV, as the file's name ends."""
    if file.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        file.write_text("".join(lines), encoding="utf-8")
    elif file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(COLUMNS[table])
            writer.writerows([[_cell(row[name]) for name in COLUMNS[table]] for row in rows])
    else:
        columns = {name: [row[name] for row in rows] for name in COLUMNS[table]}
        arrays = [pa.array(columns[name], type) for name, type in COLUMNS[table].items()]
        pq.write_table(pa.table(arrays, list(columns)), file, row_group_size=max(len(rows) // 2, 1))


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return value if value is None or isinstance(value, str) else repr(value)


def rows_in(place: Path) -> list[Event]:
    """Rows of a Parquet file, or of a folder's in the order of their names."""
    files = sorted(place.iterdir()) if place.is_dir() else [place] * place.exists()
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def expected_letters(rebuilt: Rebuilt) -> Counter[Letter]:
    """The reference's dead letters: (kind, reason, time, user, request, item) -> how many."""
    found: Counter[Letter] = Counter()
    for event, reason in rebuilt.dead:
        letter: Letter = (None,) * 4
        if reason not in BARE:
            letter = (
                event["valid_from"] if "valid_from" in event else event["time"],
                event["id"] if event["table"] == "user" else event.get("user_id"),
                event.get("request_id"),
                event["id"] if event["table"] == "item" else event.get("item_id"),
            )
        found[(event["table"], reason, *letter)] += 1
    return found


def found_letters(dead_letters: list[Event]) -> Counter[Letter]:
    """The job's dead letters, likewise."""
    names = ("kind", "reason", "time", "user_id", "request_id", "item_id")
    return Counter(tuple(row[name] for name in names) for row in dead_letters)
