"""Events that come again, late, or of somebody who is forgotten; and stages that run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from event_streams import HOUR, START, Stream, big_stream
from event_tables import built_of, mapping_of, write_files
from reference import DAY, Event, Rules

from piano_tf.errors import ConfigError
from tfx_pipeline.events import stages
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.dead_letters import Reason, letters
from tfx_pipeline.events.graph import known
from tfx_pipeline.events.in_process import Built
from tfx_pipeline.events.job import find_files
from tfx_pipeline.events.privacy import Guard
from tfx_pipeline.events.snapshots import changes
from tfx_pipeline.events.stages import Job, Portion


def search(request: str, user: str, at: int, **changed: Any) -> Event:
    found = {"request_id": request, "user_id": user, "time": START + at, "query": "soul"}
    found |= {"items": ["a", "b"], "scores": [1.0, 0.5], "context": {}, "arrived_at": None}
    return found | changed


def click(request: str | None, user: str | None, at: int, **changed: Any) -> Event:
    found = {"request_id": request, "user_id": user, "item_id": "a", "time": START + at}
    return found | {"arrived_at": None, "kind": None} | changed


def made(folder: Path, searches: list[Event], clicks: list[Event], **rules: Any) -> Built:
    events = {"search": searches, "click": clicks, "conversion": [], "item": [], "user": []}
    return built_of(Stream(events, Rules(**rules)), folder)


def lists_of(built: Built) -> dict[str, Event]:
    return {row["list_id"]: row for row in built.lists.to_pylist()}


def test_a_search_that_has_not_arrived_is_in_no_history(tmp_path: Path) -> None:
    searches = [search("late", "ann", 0, arrived_at=START + 2 * HOUR)]
    searches += [search("then", "ann", HOUR), search("after", "ann", 3 * HOUR)]
    found = lists_of(made(tmp_path, searches, [click("late", None, 1)], until=START + 9 * DAY))
    assert found["late"]["click"] == [1, 0]
    assert found["then"]["history_item_id"] == []
    assert found["after"]["history_item_id"] == ["a"]


def test_what_is_delivered_twice_counts_once_and_from_its_first_arrival(tmp_path: Path) -> None:
    again = [START + 2 * HOUR, START + 6 * HOUR]
    searches = [search("r", "ann", 0, arrived_at=time) for time in reversed(again)]
    searches += [search("then", "ann", 3 * HOUR)]
    clicks = [click("r", "ann", 1, arrived_at=time) for time in reversed(again)]
    built = made(tmp_path, searches, clicks, until=START + 9 * DAY, events_per_user_day=3)
    assert lists_of(built)["then"]["history_item_id"] == ["a"]
    letters = built.dead_letters.to_pylist()
    assert [row["reason"] for row in letters] == [Reason.DUPLICATE.value] * 2
    assert all(str(again[1]) in row["detail"] for row in letters)


@pytest.mark.parametrize(("at", "clicked"), [(HOUR, [1, 0]), (-HOUR, [0, 0])])
def test_a_request_id_is_forgotten_with_who_used_it_first(
    tmp_path: Path, at: int, clicked: list[int]
) -> None:
    searches = [search("r", "ann", 0), search("r", "bob", at)]
    rules = {"until": START + 9 * DAY, "forget": frozenset(["bob"])}
    built = made(tmp_path, searches, [click("r", None, 1)], **rules)
    assert lists_of(built)["r"]["click"] == clicked
    reasons = built.dead_letters["reason"].to_pylist()
    assert reasons == [Reason.FORGOTTEN.value] * (1 if any(clicked) else 2)


def test_a_forgotten_user_does_not_move_the_end_of_observation(tmp_path: Path) -> None:
    searches = [search("r", "ann", 0), search("later", "bob", 3_650 * DAY)]
    built = made(tmp_path, searches, [], forget=frozenset(["bob"]))
    assert built.lists.num_rows == 0
    assert built.held_back["list_id"].to_pylist() == ["r"]


def test_a_stage_writes_the_same_in_whatever_order_it_is_told(tmp_path: Path) -> None:
    stream = Stream(big_stream(3, size=40, of_rules=0).events, Rules())
    source = write_files(tmp_path / "in", stream, 1, formats=("parquet",))
    config = EventsConfig.model_validate(mapping_of(stream.rules, tmp_path))

    def files(order: int) -> dict[str, bytes]:
        folder = tmp_path / str(order)
        job = Job(config, Guard(), folder, folder, shards=1)
        files = find_files(source, config)
        reads = [
            stages.read_files(Portion(number, file.kind, (file,)), job)
            for number, file in enumerate(files)
        ]
        stages.resolve_requests(0, job, reads[::order], START)
        left = [*(folder / "requests").rglob("*.*")]
        assert {file.suffix for file in left} == {".arrow", ".index"}
        return {file.name: file.read_bytes() for file in left}

    assert len(find_files(source, config)) > 5
    assert files(1) == files(-1)


def test_a_dead_letter_says_the_whole_row() -> None:
    rows = [
        {"item_id": ["a", "宇\n"], "query": 'so"ul\\', "score": [0.5, 1e9], "time": 1},
        {"item_id": [], "query": "", "score": None, "time": None},
        {"item_id": None, "query": None, "score": [-2.25], "time": 2**53},
    ]
    types = [("item_id", pa.list_(pa.string())), ("query", pa.string())]
    types += [("score", pa.list_(pa.float32())), ("time", pa.int64())]
    table = pa.Table.from_pylist(rows, schema=pa.schema(types))
    for part in (table, table.slice(1), table.slice(0, 0), pa.concat_tables([table, table])):
        found = letters("search", Reason.DUPLICATE, part)["detail"].to_pylist()
        assert [json.loads(detail) for detail in found] == part.to_pylist()
        assert all([*json.loads(detail)] == sorted(table.schema.names) for detail in found)


def test_snapshots_that_say_nothing_new_are_not_looked_at() -> None:
    table = pa.table(
        {
            "item_id": ["a", "a", "a", "a", "b"],
            "valid_from": [1, 2, 3, 4, 1],
            "item_brand": ["x", "x", "y", "x", "x"],
            "item_price": [1.0, 1.0, 1.0, 1.0, 1.0],
        }
    )
    assert changes("item", table)["valid_from"].to_pylist() == [1, 3, 4, 1]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--runer=FlinkRunner"], "--runer"),
        (["-runner=FlinkRunner"], "-runner"),
        (["--direct_num_workers=2", "stray", "--runer=FlinkRunner"], "stray"),
        (["--direct_running_mode=multi_processing", "extra", "words"], "extra"),
        (["--zzz=1", "--aaa=1"], "--zzz"),
        (["--direct_num_workers=2", "--", "--runner=FlinkRunner"], "--"),
    ],
)
def test_words_that_beam_does_not_know_are_refused(options: list[str], first: str) -> None:
    with pytest.raises(ConfigError, match=f"^'{first}': expected an option that Apache Beam knows"):
        known(options)


def test_options_that_beam_knows_are_its() -> None:
    assert known(["--runner=FlinkRunner", "--flink_master", "here"])
