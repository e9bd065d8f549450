"""The simulated world's raw events against its own log."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from piano_tf.errors import PianoError
from piano_tf.simulation import SimulationConfig, simulate
from piano_tf.simulation.events import mapping, write_events

Row = dict[str, Any]


@pytest.fixture(scope="module")
def config(small: SimulationConfig) -> SimulationConfig:
    return small.model_copy(update={"lists": 1_500, "days": 10})


@pytest.fixture(scope="module")
def events(config: SimulationConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "events"
    rows = write_events(config, folder)
    assert {table: len(rows_of(folder, table)) for table in rows} == rows
    return folder


@pytest.fixture(scope="module")
def lists(config: SimulationConfig) -> list[Row]:
    return pa.Table.from_batches(simulate(config).batches).to_pylist()


def rows_of(folder: Path, table: str) -> list[Row]:
    return pq.read_table(folder / table).to_pylist()


def test_searches_are_what_was_shown(events: Path, lists: list[Row]) -> None:
    expected = [
        {
            "request_id": row["list_id"],
            "user_id": row["user_id"],
            "time": row["timestamp"],
            "query": row["query"],
            "item_id": row["item_id"],
            "initial_score": row["initial_score"],
            "device": row["context_device"],
            "slice": row["context_slice"],
        }
        for row in lists
    ]
    assert rows_of(events, "search") == expected


@pytest.mark.parametrize("label", ["click", "conversion"])
def test_every_act_is_one_row_at_the_time_of_its_list(
    events: Path, lists: list[Row], label: str
) -> None:
    more = {"kind": "full_play"} if label == "conversion" else {}
    expected = [
        {
            "request_id": row["list_id"],
            "user_id": row["user_id"],
            "item_id": item,
            "time": row["timestamp"],
            **more,
        }
        for row in lists
        for item, acted in zip(row["item_id"], row[label], strict=True)
        if acted
    ]
    assert len(expected) > 100
    assert rows_of(events, label) == expected


def test_features_are_those_of_the_newest_snapshot(
    events: Path, config: SimulationConfig, lists: list[Row]
) -> None:
    """Of the day of the list; and each holds from the first second of its day on."""
    items = {(row.pop("item_id"), row.pop("valid_from")): row for row in rows_of(events, "item")}
    users = {row.pop("user_id"): row for row in rows_of(events, "user")}
    assert {row.pop("valid_from") for row in users.values()} == {config.start}
    assert {len(row) for row in items.values()} == {8}
    for row in lists:
        user = users[row["user_id"]]
        assert user == {name: row[f"user_{name}"] for name in user}
        day = row["timestamp"] - (row["timestamp"] - config.start) % 86_400
        for place, item in enumerate(row["item_id"]):
            found = items[item, day]
            assert found == {name: row[f"item_{name}"][place] for name in found}
    # Some tracks come out while the world lasts, and are not known before.
    first: dict[str, int] = {}
    for item, day in items:
        first[item] = min(day, first.get(item, day))
    assert config.start < max(first.values())


def test_tables_have_a_file_a_day(events: Path, config: SimulationConfig) -> None:
    names = [f"2024-01-{day:02}.parquet" for day in range(1, 1 + config.days)]
    for table in ("search", "click", "conversion", "item"):
        assert sorted(path.name for path in (events / table).iterdir()) == names
    assert [path.name for path in (events / "user").iterdir()] == names[:1]


def test_the_mapping_names_columns_that_are_there(events: Path, config: SimulationConfig) -> None:
    found = json.loads((events / "mapping.json").read_text())
    assert found == mapping(config)
    for table in ("search", "click", "conversion", "item", "user"):
        of_table = found[table]
        declared = {**of_table.get("context", {}), **of_table.get("features", {})}
        columns = [*of_table["columns"].values(), *(one["column"] for one in declared.values())]
        (first, *_) = sorted(events.glob(of_table["files"]))
        assert pq.read_schema(first).names == columns
    last = max(row["time"] for row in rows_of(events, "search"))
    assert found["until"] >= last + found["attribution"]["click_window"]


def test_one_seed_gives_the_same_files(
    events: Path, config: SimulationConfig, tmp_path: Path
) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.*")
        }

    write_events(config, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(events)
    write_events(config.model_copy(update={"seed": 8}), tmp_path / "again", overwrite=True)
    assert digests(tmp_path / "again") != digests(events)


def test_nothing_is_replaced_unasked(config: SimulationConfig, tmp_path: Path) -> None:
    smallest = config.model_copy(update={"lists": 3, "days": 3})
    kept = tmp_path / "thesis" / "chapter.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(PianoError, match="exists already; choose another output, or --overwrite"):
        write_events(smallest, kept.parent)
    with pytest.raises(PianoError, match=r"is not a folder of events .*; not overwritten"):
        write_events(smallest, kept.parent, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["chapter.txt"]
    seen: list[int] = []
    rows = write_events(smallest, tmp_path / "new", progress=seen.append)
    assert sum(seen) == rows["search"] == 3
    assert np.all(np.array(seen) > 0)
