"""Lists rebuilt from the simulated world's events are those that the world logged itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from piano_tf.data.logs import check_log, read_spec, rows_of, split_files
from piano_tf.data.splits import ByShare
from piano_tf.features import SPLITS
from piano_tf.simulation import SimulationConfig, simulate
from piano_tf.simulation.events import MAPPING_FILE, write_events
from piano_tf.simulation.logs import SPEC
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.job import run

# Histories are longer than what is kept of them, and all days have lists.
WORLD = SimulationConfig.model_validate(
    {
        "lists": 1_500,
        "days": 10,
        "days_after": 0,
        "history": 12,
        "listeners": {"count": 40},
        "catalogue": {"tracks": 300, "artists": 40, "genres": 6, "moods": 3, "new_albums": 0.3},
        "first_stage": {"pool": 40},
        "seed": 11,
    }
)
TABLES = ("search", "click", "conversion", "item", "user")

Change = Callable[[str, pa.Table], pa.Table]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "events"
    write_events(WORLD, folder)
    return folder


@pytest.fixture(scope="module")
def logged() -> pa.Table:
    return pa.Table.from_batches(simulate(WORLD).batches)


def scattered(events: Path, folder: Path, change: Change) -> Path:
    """Changed events with every table's rows in any order, in files of any size and name."""
    rng = np.random.default_rng(0)
    for table in TABLES:
        rows = change(table, pq.read_table(events / table))
        rows = rows.take(pa.array(rng.permutation(len(rows))))
        cuts = np.sort(rng.integers(0, len(rows) + 1, 4))
        (folder / table).mkdir(parents=True)
        for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            name = f"{rng.integers(2**40):x}.parquet"
            part = rows.slice(start, end - start)
            pq.write_table(part, folder / table / name, row_group_size=int(rng.integers(50, 500)))
    (folder / MAPPING_FILE).write_bytes((events / MAPPING_FILE).read_bytes())
    return folder


def test_the_mapping_says_what_the_world_has(events: Path) -> None:
    config = EventsConfig.load(events / MAPPING_FILE)
    assert config.spec == SPEC
    assert config.history_length == WORLD.history


def as_they_are(table: str, rows: pa.Table) -> pa.Table:
    return rows


def without_request_ids(table: str, rows: pa.Table) -> pa.Table:
    """A listener looks at one list a second, so that user, item and time say which it was."""
    if table not in ("click", "conversion"):
        return rows
    return rows.set_column(0, "request_id", pa.nulls(len(rows), pa.string()))


def twice(table: str, rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, rows])


@pytest.mark.parametrize("change", [as_they_are, without_request_ids, twice])
def test_every_list_is_the_worlds_own(
    events: Path, logged: pa.Table, tmp_path: Path, change: Change
) -> None:
    source = scattered(events, tmp_path / "events", change)
    config, logs = EventsConfig.load(source / MAPPING_FILE), tmp_path / "logs"
    counts = run(source, config, logs, ByShare(validation=0.2, test=0.2))
    files = [file for split in SPLITS for file in split_files(logs, split)]
    found = pa.concat_tables([pq.read_table(file) for file in files])
    assert found.schema.equals(logged.schema)
    assert found["list_id"].to_pylist() == logged["list_id"].to_pylist()
    for column in logged.schema.names:
        assert found[column].combine_chunks() == logged[column].combine_chunks(), column
    for kind in TABLES:
        rows = sum(rows_of(file) for file in (events / kind).iterdir())
        of_kind = counts["events"][kind]
        assert of_kind["used"] == rows, kind
        assert of_kind["read"] == rows * (2 if change is twice else 1), kind
    # And it is a log like any other.
    assert read_spec(logs) == SPEC
    lists = check_log(logs).lists
    assert lists == {"train": 900, "validation": 300, "test": 300}


def test_the_log_has_something_to_get_wrong(logged: pa.Table) -> None:
    lengths = pc.list_value_length(logged["history_item_id"]).to_numpy()
    assert lengths[0] == 0 and (lengths == WORLD.history).mean() > 0.3
    assert set(pc.list_flatten(logged["history_action"]).to_pylist()) == {"click", "conversion"}
    # A track that came out while the world lasted, so that its features are not always there.
    ages = logged["item_age"][-1].values.to_numpy()
    assert (ages < WORLD.days - 1).any()
