"""Files as no reader likes them: what becomes of every row, and of whom nothing may be left."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_streams import HISTORY_ITEM, SECOND, START, TYPES, Stream, big_stream
from event_tables import COLUMNS, expected_letters, found_letters, mapping_of, rows_in, write_files
from reference import DAY, Event, Rebuilt, Rules, rebuild

from piano_tf.data.logs import check_log
from piano_tf.data.splits import ByDate
from piano_tf.errors import LogError
from piano_tf.features import SPLITS
from tfx_pipeline.events import formats
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.job import find_files, portions_of, run

CUT = ByDate(dt.date(2024, 1, 2), dt.date(2024, 1, 3))
RULES = Rules(until=START + 9 * DAY, history_length=5, **TYPES, history_item=HISTORY_ITEM)
AT = START + DAY + 5 * SECOND


@pytest.fixture(scope="module")
def stream() -> Stream:
    """Duplicates, unknown requests and items, empty lists, clocks that run backwards, and so on."""
    return dataclasses.replace(big_stream(77, size=60, of_rules=0), rules=RULES)


@pytest.fixture(scope="module")
def rebuilt(stream: Stream) -> Rebuilt:
    return rebuild(stream.events, stream.rules)


@pytest.fixture
def folder(stream: Stream, tmp_path: Path) -> Path:
    """The stream's files, one a table or a few, of all formats."""
    return write_files(tmp_path / "in", stream, 3, formats=("parquet", "jsonl", "csv"))


def built(folder: Path, rules: Rules, **settings: Any) -> tuple[Path, dict[str, Any]]:
    output = folder.with_name("out")
    mapping = {**mapping_of(rules, folder.parent), "shards": 3, **settings}
    return output, run(folder, EventsConfig.model_validate(mapping), output, CUT)


def check_lists(output: Path, rebuilt: Rebuilt) -> None:
    """The lists are those of the events that are sound."""
    rows = [row for split in SPLITS for row in rows_in(output / split)]
    assert {row["list_id"]: row for row in rows} == rebuilt.lists
    assert sum(check_log(output).lists.values()) == len(rebuilt.lists) > 20


# --- rows that cannot be read ---

SEARCH: Event = {
    "request_id": "dirty",
    "user_id": "ann",
    "time": AT,
    "query": "soul",
    "item_id": ["a", "b"],
    "initial_score": [1.0, 0.5],
    "arrived_at": None,
    "device": "phone",
    "hour": 1.0,
}
CLICK: Event = {"request_id": "r1", "user_id": "ann", "item_id": "a", "time": AT}
MISSING, NOT_READABLE, NOT_UTF8 = "missing value", "not readable", "not UTF-8"
RANGE = "time out of range"

DIRTY_SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({"query": b"caf\xe9"}, NOT_UTF8),
    ({"user_id": b"\xff"}, NOT_UTF8),
    ({"item_id": [b"a", b"\xc3"]}, NOT_UTF8),
    ({"query": None}, MISSING),
    ({"request_id": None}, MISSING),
    ({"request_id": b""}, MISSING),
    ({"user_id": b""}, MISSING),
    ({"time": None}, MISSING),
    ({"item_id": None}, MISSING),
    ({"item_id": [b"a", None]}, MISSING),
    ({"item_id": [b"", b"b"]}, MISSING),
    ({"initial_score": None}, MISSING),
    ({"initial_score": [1.0, float("nan")]}, MISSING),
    ({"time": -1}, RANGE),
    ({"time": 2**62}, RANGE),
    ({"arrived_at": -5}, RANGE),
]
DIRTY_LINES: list[tuple[bytes, str]] = [
    (b'{"request_id": "r1", "user_id": "ann", "item', NOT_READABLE),
    (b"[1, 2]", NOT_READABLE),
    (b"null", NOT_READABLE),
    (b"\xff\xfe\x00", NOT_UTF8),
    (b'{"request_id": "r\xe9", "item_id": "a", "time": 1}', NOT_UTF8),
    (json.dumps({**CLICK, "time": "yesterday"}).encode(), NOT_READABLE),
    (json.dumps({**CLICK, "time": True}).encode(), NOT_READABLE),
    (json.dumps({**CLICK, "item_id": ["a"]}).encode(), NOT_READABLE),
    (json.dumps({**CLICK, "item_id": None}).encode(), MISSING),
    (json.dumps({"request_id": "r1", "user_id": "ann", "time": AT}).encode(), MISSING),
    (json.dumps({**CLICK, "request_id": None, "user_id": ""}).encode(), MISSING),
    (json.dumps({**CLICK, "time": 10**30}).encode(), RANGE),
]
DIRTY_CELLS: list[tuple[bytes, str]] = [
    (b"r1,ann,a", NOT_READABLE),
    (b"r1,ann,a,%d,,buy,more" % AT, NOT_READABLE),
    (b"r1,ann,a,noon,,buy", NOT_READABLE),
    (b"r1,ann,caf\xe9,%d,,buy" % AT, NOT_UTF8),
    (b"r1,ann,a,,,buy", MISSING),
    (b",,a,%d,,buy" % AT, MISSING),
    (b"r1,ann,,%d,,buy" % AT, MISSING),
]


def add_dirt(folder: Path) -> Counter[tuple[str, str]]:
    """Adds files of dirty rows; returns (table, reason) -> how many."""
    binary = {pa.string(): pa.binary(), pa.list_(pa.string()): pa.list_(pa.binary())}
    rows = [{**SEARCH, **change} for change, _ in DIRTY_SEARCHES]
    arrays = [
        pa.array([_bytes(row[name]) for row in rows], binary.get(type, type))
        for name, type in COLUMNS["search"].items()
    ]
    table = pa.table(arrays, [*COLUMNS["search"]])
    pq.write_table(table, folder / "search/dirty.parquet", row_group_size=5)

    lines = [line for line, _ in DIRTY_LINES]
    (folder / "click/dirty.jsonl").write_bytes(b"\n\n".join(lines))  # and blank ones are none
    header = ",".join(COLUMNS["conversion"]).encode()
    rows_and_header = [header, *(row for row, _ in DIRTY_CELLS)]
    (folder / "conversion/dirty.csv").write_bytes(b"\r\n".join(rows_and_header))

    (folder / "item/dirty.jsonl").write_bytes(
        b'{"item_id": "a", "brand": "x", "price": 1}\n'
        b'{"item_id": "a", "valid_from": 5, "brand": "x", "price": "dear"}\n'
    )
    (folder / "user/dirty.csv").write_bytes(b"user_id,valid_from,country,plays\nann,,NZ,1\n")
    return Counter(
        [
            *(("search", reason) for _, reason in DIRTY_SEARCHES),
            *(("click", reason) for _, reason in DIRTY_LINES),
            *(("conversion", reason) for _, reason in DIRTY_CELLS),
            ("item", MISSING),
            ("item", NOT_READABLE),
            ("user", MISSING),
        ]
    )


def _bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_bytes(one) for one in value]
    return value.encode() if isinstance(value, str) else value


def test_every_dirty_row_is_in_one_dead_letter(
    stream: Stream, rebuilt: Rebuilt, folder: Path
) -> None:
    dirt = add_dirt(folder)
    output, said = built(folder, RULES)
    check_lists(output, rebuilt)

    letters = rows_in(output / "dead_letters")
    expected = expected_letters(rebuilt)
    expected.update({(*letter, None, None, None, None): n for letter, n in dirt.items()})
    assert found_letters(letters) == expected

    assert said == json.loads((output / "reconciliation.json").read_text(encoding="utf-8"))
    used = Counter(event["table"] for event in rebuilt.used)
    for table, rows in stream.events.items():
        dead: Counter[str] = Counter()
        for (kind, reason, *_), count in expected.items():
            if kind == table:
                dead[reason] += count
        added = sum(count for (kind, _), count in dirt.items() if kind == table)
        assert said["events"][table] == {
            "read": len(rows) + added,
            "used": used[table],
            "dead letters": dict(dead),
        }
        assert used[table] + sum(dead.values()) == len(rows) + added
    assert said["unreadable files"] == []
    assert "not UTF-8" in (output / "report.html").read_text(encoding="utf-8")

    of_dirt = {reason for _, reason in dirt}
    details = [json.loads(row["detail"]) for row in letters if row["reason"] in of_dirt]
    assert len(details) == sum(dirt.values())
    assert all(any(detail.values()) for detail in details)
    for change, _ in DIRTY_SEARCHES:
        said_then = {name: _as_said(value) for name, value in {**SEARCH, **change}.items()}
        assert said_then in details, "what could not be read can be seen"
    lines = [detail["line"] for detail in details if "line" in detail]
    assert sum("caf\\xe9" in line for line in lines) == 1


def _as_said(value: Any) -> Any:
    """A value as the JSON of a dead letter has it."""
    if isinstance(value, list):
        return [_as_said(one) for one in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "nan" if value != value else value


# --- files that cannot be read ---


def truncate(folder: Path) -> Path:
    """Cuts a Parquet file of clicks off, as an upload does that breaks."""
    file = folder / "click/cut.parquet"
    arrays = [pa.array([CLICK.get(name)] * 50, type) for name, type in COLUMNS["click"].items()]
    pq.write_table(pa.table(arrays, [*COLUMNS["click"]]), file)
    file.write_bytes(file.read_bytes()[:-20])
    return file


def test_a_truncated_file_stops_the_job(folder: Path) -> None:
    truncate(folder)
    before = {path for path in folder.parent.rglob("*")}
    with pytest.raises(LogError, match=r"click/cut\.parquet: cannot be read \("):
        built(folder, RULES)
    assert {path for path in folder.parent.rglob("*")} == before, "nothing is left"


def test_a_truncated_file_can_be_set_aside(rebuilt: Rebuilt, folder: Path) -> None:
    truncate(folder)
    output, said = built(folder, RULES, unreadable_files="set_aside")
    check_lists(output, rebuilt)
    assert said["unreadable files"] == ["click/cut.parquet"]
    assert said["events"]["click"]["dead letters"]["unreadable file"] == 1
    (letter,) = [
        row for row in rows_in(output / "dead_letters") if row["reason"] == "unreadable file"
    ]
    assert letter["kind"] == "click"
    assert "cut.parquet" in letter["detail"]
    assert "click/cut.parquet" in (output / "report.html").read_text(encoding="utf-8")


def test_what_stood_before_the_damage_is_set_aside_too(
    rebuilt: Rebuilt, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_ROWS", 10)
    _, sound = built(folder, RULES)
    shutil.rmtree(folder.with_name("out"))
    file = folder / "click/cut.parquet"
    arrays = [pa.array([CLICK.get(name)] * 50, type) for name, type in COLUMNS["click"].items()]
    pq.write_table(pa.table(arrays, [*COLUMNS["click"]]), file, row_group_size=25)
    start = pq.read_metadata(file).row_group(1).column(0).dictionary_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    file.write_bytes(data)
    (folder / "click/too.parquet").write_bytes(data)
    assert next(pq.ParquetFile(file).iter_batches(10)).num_rows == 10
    config = EventsConfig.model_validate(mapping_of(RULES, folder.parent))
    (clicks,) = [one for one in portions_of(find_files(folder, config)) if one.kind == "click"]
    assert len(clicks.files) > 1, "it is read together with sound files"
    output, said = built(folder, RULES, unreadable_files="set_aside")
    check_lists(output, rebuilt)
    letters = said["events"]["click"]["dead letters"]
    assert letters.pop("unreadable file") == 2
    assert said == {**sound, "unreadable files": ["click/cut.parquet", "click/too.parquet"]}


# --- of whom nothing may be left ---

SECRET = "zq-secret"  # in every id, item and query of the forgotten user, and nowhere else
FORGOTTEN = f"{SECRET}-user"


def forgotten_events() -> dict[str, list[Event]]:
    """What a forgotten user did, in every way in which it may be said whose it was."""
    searches, clicks, conversions = [], [], []
    act = {"user_id": None, "item_id": f"{SECRET}-item", "arrived_at": None}
    for number in range(3):
        request, time = f"{SECRET}-{number}", START + number * DAY
        searches.append(
            {
                **SEARCH,
                "request_id": request,
                "user_id": FORGOTTEN,
                "time": time,
                "query": f"{SECRET} query",
                "item_id": [f"{SECRET}-item", "a"],
            }
        )
        clicks.append({**act, "request_id": request, "time": time + 1})
        clicks.append({**act, "request_id": None, "user_id": FORGOTTEN, "time": time + 1})
        clicks.append({**act, "request_id": request, "time": None})
        clicks.append({**act, "request_id": request, "time": time - 1})
        conversions.append({**act, "request_id": request, "time": time + 2, "kind": "buy"})
        conversions.append({**act, "request_id": request, "time": time + 2, "kind": "unheard of"})
    searches.append({**searches[0], "query": "another"})  # the id twice
    searches.append({**searches[0], "request_id": f"{SECRET}-3", "item_id": []})
    return {"search": searches, "click": clicks, "conversion": conversions}


def write_forgotten(folder: Path) -> int:
    """Adds the forgotten user's events; returns how many rows these are."""
    events = forgotten_events()
    # A search that cannot be read is still one of the user's, and so is a click on it.
    unreadable = {**events["search"][0], "request_id": f"{SECRET}-4", "query": None}
    events["search"].append(unreadable)
    for table, time in (("click", START + 5), ("conversion", START + 6)):
        act = {"request_id": f"{SECRET}-4", "item_id": f"{SECRET}-item", "time": time}
        events[table].append(act)
    for table, rows in events.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / table / "forgotten.jsonl").write_text(text, encoding="utf-8")
    with (folder / "click/forgotten.jsonl").open("ab") as file:
        file.write(f'{{"user_id": "{FORGOTTEN}", "item_id": "{SECRET}-it'.encode())
        file.write(f'\n{{"user_id": "{FORGOTTEN}", "item_id": "{SECRET}-'.encode() + b'\xff"}\n')
    (folder / "user/forgotten.csv").write_text(
        f"user_id,valid_from,country,plays\n{FORGOTTEN},{START},{SECRET}-land,1\n{FORGOTTEN},,,\n"
    )
    return sum(map(len, events.values())) + 2


def everything_in(output: Path) -> Iterator[tuple[str, bytes]]:
    """Every file's bytes, and those of Parquet once more as text, for pages are compressed."""
    for file in output.rglob("*"):
        if file.is_file():
            yield file.name, file.read_bytes()
            if file.suffix == ".parquet":
                table = pq.read_table(file)
                yield file.name, json.dumps(table.to_pylist(), ensure_ascii=False).encode()
                yield file.name, str(pq.read_metadata(file).to_dict()).encode()


@pytest.mark.parametrize("salted", [True, False])
def test_nothing_is_left_of_a_forgotten_user(
    stream: Stream, rebuilt: Rebuilt, folder: Path, salted: bool
) -> None:
    rules = dataclasses.replace(
        RULES,
        forget=frozenset([FORGOTTEN]),
        salt="sea" if salted else None,
        conversion_windows={"buy": DAY, "play": DAY, "share": DAY},
        default_conversion_window=None,
    )
    count = write_forgotten(folder)
    output, said = built(folder, rules)
    assert not (output / "scratch").exists()
    found = [name for name, data in everything_in(output) if SECRET.encode() in data]
    assert found == []
    if salted:
        pseudonym = hmac.new(b"sea", FORGOTTEN.encode(), hashlib.sha256).hexdigest()[:32]
        assert [name for name, data in everything_in(output) if pseudonym.encode() in data] == []

    # Others lose nothing by it, and every row is still counted.
    check_lists(output, rebuild(stream.events, rules))
    for table, of_table in said["events"].items():
        assert of_table["read"] == of_table["used"] + sum(of_table["dead letters"].values()), table
    rows = sum(len(rows) for rows in stream.events.values()) + 2
    assert sum(of_table["read"] for of_table in said["events"].values()) == rows + count
    for table, least in (("search", 5), ("click", 9), ("conversion", 6), ("user", 1)):
        assert said["events"][table]["dead letters"]["forgotten"] >= least, table


def test_salted_ids_are_the_only_ones(stream: Stream, folder: Path) -> None:
    renamed = {"ann": "qx-ann", "bob": "qx-bob", "Zoë": "qx-Zoë", "carol": "qx-carol"}
    rules = dataclasses.replace(RULES, salt="sea", retention=8 * DAY + DAY // 2)
    events = {
        table: [
            {
                key: renamed.get(value, value) if key in ("user_id", "id") else value
                for key, value in event.items()
            }
            for event in rows
        ]
        for table, rows in stream.events.items()
    }
    source = write_files(
        folder.with_name("renamed"), Stream(events, rules), 4, formats=("jsonl", "csv", "parquet")
    )
    with (source / "click/broken.jsonl").open("wb") as file:
        file.write(b'{"user_id": "qx-ann", "item_id": "a", "ti\n{"user_id": "qx-bob"}\n')
    output, said = built(source, rules)
    assert [name for name, data in everything_in(output) if b"qx-" in data] == []
    check_lists(output, rebuild(events, rules))
    users = {row["user_id"] for split in SPLITS for row in rows_in(output / split)}
    assert users == {
        hmac.new(b"sea", renamed[user].encode(), hashlib.sha256).hexdigest()[:32]
        for user in ("ann", "bob", "Zoë")
    }
    assert said["events"]["search"]["dead letters"]["older than retention"] > 0
    letters = rows_in(output / "dead_letters")
    old = [row for row in letters if row["reason"] == "older than retention"]
    assert {row[name] for row in old for name in ("time", "user_id", "item_id", "detail")} == {None}
