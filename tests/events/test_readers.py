"""What is made of cells and files, without the job."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from piano_tf.errors import ConfigError, LogError
from tfx_pipeline.events import cells, reading
from tfx_pipeline.events.config import EventsConfig, Privacy
from tfx_pipeline.events.job import find_files

SECOND = 1_000_000
MOMENT = 1_704_067_200  # 2024-01-01, 00:00 UTC


# --- cells ---

WHOLE = [pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
NARROW = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16()]
FLOAT = [pa.float32(), pa.float64()]


@pytest.mark.parametrize("type", [*WHOLE, *NARROW, *FLOAT], ids=str)
@pytest.mark.parametrize(("unit", "size"), [("s", SECOND), ("ms", 1_000), ("us", 1)])
def test_numbers_of_every_type_are_the_same_times(type: pa.DataType, unit: str, size: int) -> None:
    # 1704067200 is a multiple of 128, so that single precision holds it.
    moments = [0, 1, 100, None, *([] if type in NARROW else [MOMENT])]
    column = pa.array(moments, pa.int64()).cast(type, safe=False)
    found = cells.time(column, unit)
    expected = [None if moment is None else moment * size for moment in moments]
    assert found.values.to_pylist() == expected
    assert not (found.not_utf8 | found.not_readable).any()


@pytest.mark.parametrize("type", [pa.int64(), pa.uint64()], ids=str)
def test_whole_microseconds_stay_exact(type: pa.DataType) -> None:
    moments = [2**53 + 1, 2**61 + 1, 2**62]
    found = cells.time(pa.array(moments, type), "us").values.to_pylist()
    assert found == [2**53 + 1, 2**61 + 1, -1], "what is beyond every time is none"
    assert cells.time(pa.array([2**63 - 1], type), "s").values.to_pylist() == [-1]


ISO = {
    "2024-01-01": 0,
    "2024-01-01T12": 12 * 3_600 * SECOND,
    "2024-01-01T00:00:00.1Z": 100_000,
    "2024-01-01 00:00:00.123456789Z": 123_456,
    "2024-01-01T00:00:00,5": 500_000,
    "2024-01-01T00:00:01+0000": SECOND,
    "2024-01-01T02:00:00+02": 0,
    "2023-12-31T22:30:00-01:30": 0,
    "20240101T003000Z": 1_800 * SECOND,
    "2024-01-01 12:30:00 UTC": 45_000 * SECOND,
    "2024-01-01 12:30:00.000001 utc": 45_000 * SECOND + 1,
}
NO_TIME = (
    *("noon", "2024-01-32", "2024-0101", "2024-01-01T12:3", "2024-01-01T25:00", "2024-13-01"),
    *("2024-01-01T12:00+99", "2024-01-01T12:00:00 CET", "0000-01-01", "T12:00", "nan"),
)


def test_iso_8601_as_databases_write_it() -> None:
    found = cells.time(pa.array([*ISO, *NO_TIME, "", None]), "s")
    expected = [MOMENT * SECOND + after for after in ISO.values()]
    assert found.values.to_pylist() == expected + [None] * (len(NO_TIME) + 2)
    assert found.not_readable.tolist() == [False] * len(ISO) + [True] * len(NO_TIME) + [False] * 2


# What is written -> unit -> its time; "" is what is not readable.
ODD_TIMES: dict[str, dict[str, int | str | None]] = {
    "0x6592b880": {"s": "", "us": ""},
    "nan": {"s": "", "us": ""},
    "NaN": {"s": "", "us": ""},
    "-nan": {"s": "", "us": ""},
    "nan(1)": {"s": "", "us": ""},
    "inf": {"s": -1, "us": -1},
    "1e400": {"s": -1, "us": -1},
    "": {"s": None, "us": None},
    "9007199254740993": {"s": -1, "us": 2**53 + 1},
    "+9007199254740993": {"s": -1, "us": 2**53 + 1},
    "000000000000000007": {"s": 7 * SECOND, "us": 7},
    "-5": {"s": -5 * SECOND, "us": -5},
    " 7": {"s": 7 * SECOND, "us": 7},
    "7.5": {"s": 7_500_000, "us": 8},
    "1e3": {"s": 1_000 * SECOND, "us": 1_000},
    "99999999999999999999": {"s": -1, "us": -1},
    "2024-01-01": {"s": MOMENT * SECOND, "us": MOMENT * SECOND},
    "noon": {"s": "", "us": ""},
}
COMPANY = ["1704067200", "2024-01-01", "1704067200.5", "noon", "", None, "+5"]


@pytest.mark.parametrize("unit", ["s", "us"])
@pytest.mark.parametrize("value", ODD_TIMES)
def test_a_time_in_text_is_the_same_in_any_company(value: str, unit: str) -> None:
    expected = ODD_TIMES[value][unit]
    time, broken = (None, True) if expected == "" else (expected, False)
    for beside in ([], *([one] for one in COMPANY), COMPANY):
        found = cells.time(pa.array([value, *beside], pa.string()), unit)
        assert (found.values[0].as_py(), found.not_readable[0]) == (time, broken), beside


@pytest.mark.parametrize(
    "value", ["nan", "nan(1)", "inf", "1e400", "0x10", " 1.5", "+1", "16777217"]
)
def test_a_number_in_text_is_the_same_in_any_company(value: str) -> None:
    alone = cells.number(pa.array([value]))
    for beside in ("1", "1.5", "x", "", "nan"):
        found = cells.number(pa.array([value, beside]))
        assert repr(found.values[0].as_py()) == repr(alone.values[0].as_py()), beside
        assert found.not_readable[0] == alone.not_readable[0], beside


# --- files ---

SEARCHES: dict[str, Any] = {
    "dataset": "shop",
    "search": {"context": {"device": {"type": "string"}, "hour": {"type": "float"}}},
}
ROW = {"request_id": "r", "user_id": "u", "time": MOMENT, "query": "q", "item_id": ["a"]} | {
    "device": "d",
    "hour": 1.5,
}
CLICKS: dict[str, Any] = {"dataset": "shop", "click": {"columns": {"user_id": "user_id"}}}
HEADER = b"user_id,item_id,time\n"


def read(
    file: Path, data: bytes, kind: str, mapping: dict[str, Any], forgotten: tuple[str, ...] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sound rows and dead letters; all of them are as many as there were."""
    file.write_bytes(data)
    batches = [*reading.read(file, kind, EventsConfig.model_validate(mapping), forgotten)]
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    dead = [row for batch in batches for part in batch.dead_letters for row in part.to_pylist()]
    assert sum(batch.rows for batch in batches) == len(rows) + len(dead)
    return rows, dead


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({**ROW, **row}).encode() + b"\n" for row in rows)


def clicks(first: int, last: int) -> bytes:
    return b"".join(b"u,i%d,1704067200\n" % number for number in range(first, last))


@pytest.mark.parametrize(
    "rest", [b"", b'v,"quoted",1704067200\n', b'w,"a ""b""",1704067200\n'], ids=range(3)
)
def test_a_stray_quote_costs_its_own_line(tmp_path: Path, rest: bytes) -> None:
    stray = b'u,"a,1704067200'
    data = HEADER + clicks(0, 10) + stray + b"\n" + clicks(10, 1_010) + rest
    rows, dead = read(tmp_path / "f.csv", data, "click", CLICKS)
    quoted = ["quoted"] if b"quoted" in rest else ['a "b"'] if rest else []
    assert [row["item_id"] for row in rows] == [f"i{number}" for number in range(1_010)] + quoted
    (letter,) = dead
    assert letter["reason"] == "not readable"
    assert json.loads(letter["detail"]) == {"line": stray.decode()}


STRAY = b'u,"a,1704067200'


@pytest.mark.parametrize("end", [b'v,b",1704067200\n', b'v,b",1704067200\nw,c",1704067200\n'])
@pytest.mark.parametrize("rows_within", [0, 1, 1_000])
def test_a_second_stray_quote_hides_no_rows(tmp_path: Path, end: bytes, rows_within: int) -> None:
    within = clicks(10, 10 + rows_within)
    data = HEADER + clicks(0, 10) + STRAY + b"\n" + within + end
    rows, dead = read(tmp_path / "f.csv", data, "click", CLICKS)
    assert len(rows) == 10 + rows_within + end.count(b"\n")
    assert [json.loads(letter["detail"]) for letter in dead] == [{"line": STRAY.decode()}]


TEXT_HEADERS = ["request_id,user_id,time,query,item_id", "query,request_id,user_id,time,item_id"]


@pytest.mark.parametrize("header", TEXT_HEADERS)
@pytest.mark.parametrize("broken", [b"", b"short\n"])
def test_a_stray_quote_in_a_query_hides_no_rows(tmp_path: Path, header: str, broken: bytes) -> None:
    def row(number: int, query: str) -> bytes:
        cells = {"request_id": f"r{number}", "user_id": "u", "time": "1704067200", "item_id": "a|b"}
        return ",".join({**cells, "query": query}[name] for name in header.split(",")).encode()

    first, last = row(0, '"soul'), row(9, 'so"')
    data = b"\n".join([header.encode(), first, *(row(n, "soul") for n in range(1, 9)), last])
    data = data.replace(b"r5", broken + b"r5") if header.startswith("request") else data
    rows, dead = read(tmp_path / "f.csv", data, "search", {"dataset": "shop"})
    assert [row["request_id"] for row in rows] == [f"r{number}" for number in range(1, 10)]
    assert [letter["reason"] for letter in dead][:1] == ["not readable"]
    assert len(dead) == 1 + (broken in data and broken != b"")


QUERIES = [
    "two\nlines",
    "\nof\n\n\nmany, many\n",
    "a,b,c\nd,e,f,g,h\n,,,,",
    "so, a\n",
    'a ""b""\nc',
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("header", TEXT_HEADERS)
def test_a_query_may_have_lines(tmp_path: Path, header: str, query: str) -> None:
    row = {"request_id": "r", "user_id": "u", "time": "1704067200", "item_id": "a|b"}
    line = ",".join({**row, "query": f'"{query}"'}[name] for name in header.split(","))
    data = f"{header}\n{line}\n{line}\n".encode()
    rows, dead = read(tmp_path / "f.csv", data, "search", {"dataset": "shop"})
    assert [row["query"] for row in rows] == [query.replace('""', '"')] * 2
    assert not dead


@pytest.mark.parametrize(
    "row", [b'u,"i\nj",1704067200', b'"u\r\n",i,1704067200', b'u,i,"1704067200\r"']
)
def test_ids_and_times_have_no_lines(tmp_path: Path, row: bytes) -> None:
    rows, dead = read(tmp_path / "f.csv", HEADER + row + b"\n" + clicks(0, 2), "click", CLICKS)
    assert [row["item_id"] for row in rows] == ["i0", "i1"]
    assert {letter["reason"] for letter in dead} == {"not readable"}


@pytest.mark.parametrize("name", ["f.csv", "f.parquet"])
def test_a_column_that_is_there_twice_is_not_chosen_from(tmp_path: Path, name: str) -> None:
    file, columns = tmp_path / name, ["user_id", "item_id", "time", "time", "more", "more"]
    if name == "f.csv":
        file.write_text(",".join(columns) + "\nu,i,1704067200,1704067300,x,y\n")
    else:
        pq.write_table(pa.table([["u"], ["i"], [1], [2], ["x"], ["y"]], columns), file)
    sentence = r"column 'time': got 2 columns of that name, expected one"
    for look in (reading.check, lambda *arguments: list(reading.read(*arguments))):
        with pytest.raises(LogError, match=sentence):
            look(file, "click", EventsConfig.model_validate(CLICKS))


def test_cells_may_have_lines_and_rows_that_are_none_say_what_they_said(tmp_path: Path) -> None:
    short, long, mixed = b"u,i", b"u,i,1704067200,note,more", b'u,"i"x,1704067200,note'
    sound = b'u,i,1704067200,"two\nlines"\r\n'
    header = HEADER.replace(b"\n", b",note\n")
    data = header + b"\n".join([short, sound, long, b"", mixed, b'u,"end'])
    rows, dead = read(tmp_path / "f.csv", data, "click", CLICKS)
    assert [row["item_id"] for row in rows] == ["i"]
    said = [json.loads(letter["detail"])["line"].encode() for letter in dead]
    assert said == [short, long, mixed, b'u,"end']


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path: Path, name: str) -> None:
    click = {"user_id": "u", "item_id": "i", "time": MOMENT}
    data = HEADER + b"u,i,%d\n" % MOMENT if name == "f.csv" else json.dumps(click).encode()
    rows, dead = read(tmp_path / name, codecs.BOM_UTF8 + data, "click", CLICKS)
    assert [row["item_id"] for row in rows] == ["i"]
    assert not dead


VALUES: list[tuple[dict[str, Any], dict[str, Any] | str]] = [
    ({"device": 38}, {"context_device": "38"}),
    ({"device": 38.5}, {"context_device": "38.5"}),
    ({"device": "L"}, {"context_device": "L"}),
    ({"device": True}, "not readable"),
    ({"request_id": 7}, {"request_id": "7"}),
    ({"request_id": 7.5}, {"request_id": "7.5"}),
    ({"hour": True}, {"context_hour": 1.0}),
    ({"hour": 2}, {"context_hour": 2.0}),
    ({"hour": "2.5"}, {"context_hour": 2.5}),
    ({"hour": float("nan")}, {"context_hour": 0.0}),
    ({"hour": [1]}, "not readable"),
    ({"time": MOMENT + 0.5}, {"time": MOMENT * SECOND + 500_000}),
    ({"time": "2024-01-01"}, {"time": MOMENT * SECOND}),
    ({"time": True}, "not readable"),
    ({"item_id": "a|b"}, {"item_id": ["a", "b"]}),
    ({"item_id": ["a", 2, "ü"]}, {"item_id": ["a", "2", "ü"]}),
    ({"item_id": ["a", ["b"]]}, "not readable"),
    ({"item_id": ["\ud800"]}, "not UTF-8"),
    ({"item_id": 5}, "not readable"),
    ({"query": "\ud800"}, "not UTF-8"),
]


def test_values_of_json_are_read_the_same_alone_and_beside_others(tmp_path: Path) -> None:
    sound = [(change, found) for change, found in VALUES if isinstance(found, dict)]
    reasons = [found for _, found in VALUES if isinstance(found, str)]
    rows, dead = read(tmp_path / "f.jsonl", lines(*(row for row, _ in VALUES)), "search", SEARCHES)
    for row, (_, found) in zip(rows, sound, strict=True):
        assert found.items() <= row.items()
    assert Counter(letter["reason"] for letter in dead) == Counter(reasons)
    alone = [read(tmp_path / "f.jsonl", lines(row), "search", SEARCHES) for row, _ in VALUES]
    assert [row for found, _ in alone for row in found] == rows
    assert sorted(letter["detail"] for _, found in alone for letter in found) == sorted(
        letter["detail"] for letter in dead
    )


ODD_JSON_TIMES: list[tuple[str, str | int]] = [
    ("NaN", "not readable"),
    ("-Infinity", "time out of range"),
    ("1e400", "time out of range"),
    ("9007199254740993", 2**53 + 1),
    ("9007199254740991", 2**53 - 1),
    (f"{10**30}", "time out of range"),
    ("7.5", 8),
    ("true", "not readable"),
    ('"nan"', "not readable"),
    ('"0x10"', "not readable"),
]


@pytest.mark.parametrize(("value", "expected"), ODD_JSON_TIMES)
def test_a_time_in_json_is_the_same_in_any_company(
    tmp_path: Path, value: str, expected: str | int
) -> None:
    mapping = {**CLICKS, "time_unit": "us"}
    for beside in ("", "5", "1.5", "NaN", '"2024-01-01"', '"5"', "null", "true"):
        times = [value, beside] if beside else [value]
        data = [f'{{"user_id": "u", "item_id": "{n}", "time": {t}}}' for n, t in enumerate(times)]
        rows, dead = read(tmp_path / "f.jsonl", "\n".join(data).encode(), "click", mapping)
        found: list[str | int] = [row["time"] for row in rows if row["item_id"] == "0"]
        found += [row["reason"] for row in dead if '"0"' in row["detail"] or value in row["detail"]]
        assert found[0] == expected, beside


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
def test_of_a_forgotten_user_a_cell_that_is_no_text_tells_nothing(
    tmp_path: Path, name: str
) -> None:
    mapping = {**SEARCHES, "search": {}}
    if name == "f.csv":
        data = b"request_id,user_id,time,query,item_id\nSECRET,ann,1704067200,caf\xe9,a|b\n"
    else:
        data = lines({"request_id": "SECRET", "user_id": "ann"}).replace(b'"q"', b'"caf\xe9"')
    file = tmp_path / name
    rows, dead = read(file, data, "search", mapping)
    assert not rows and dead[0]["reason"] == "not UTF-8"
    assert r"caf\xe9" in json.loads(dead[0]["detail"])["line"]

    (*_, batch) = reading.read(file, "search", EventsConfig.model_validate(mapping), ["ann"])
    (letter,) = batch.dead_letters[0].to_pylist()
    assert letter["reason"] == "forgotten"
    assert batch.forgotten.to_pylist() == ["SECRET"], "so that acts on it are forgotten as well"


@pytest.mark.parametrize("cell", [b'"[""\\ud800""]"', b"[" * 100_000, b"[1", b"[{}]"], ids=range(4))
def test_a_list_in_csv_that_is_none_is_one_dead_letter(tmp_path: Path, cell: bytes) -> None:
    header = b"request_id,user_id,time,query,item_id\n"
    data = header + b"r,u,1704067200,q," + cell + b"\nr,u,1704067200,q,a|b\n"
    rows, dead = read(tmp_path / "f.csv", data, "search", {"dataset": "shop"})
    assert [row["item_id"] for row in rows] == [["a", "b"]]
    assert [letter["reason"] for letter in dead] == ["not readable"]


@pytest.mark.parametrize("depth", [900, 960, 980, 1_000, 100_000])
def test_json_of_any_depth_is_said(tmp_path: Path, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    data = lines({}).replace(b'"q"', nested)
    _, dead = read(tmp_path / "f.jsonl", data, "search", SEARCHES)
    assert [letter["reason"] for letter in dead] == ["not readable"]


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def test_details_are_strict_json_whatever_a_row_has(tmp_path: Path) -> None:
    data = lines({"query": None, "hour": float("nan")}, {"query": None})
    data += lines({"query": None}).replace(b"1.5", b"1e999")
    _, dead = read(tmp_path / "f.jsonl", data, "search", SEARCHES)
    table = pa.table(
        {
            **{name: pa.array([value] * 2) for name, value in ROW.items()},
            "time": pa.array([2**60, None], pa.timestamp("us")),
            "query": pa.array([b"q", b"\xff"]).cast(pa.large_binary()).view(pa.large_string()),
            "device": pa.array(["d", "d"]).dictionary_encode(),
            "hour": pa.array([float("nan"), float("inf")]),
        }
    )
    file = tmp_path / "f.parquet"
    pq.write_table(table, file)
    _, of_parquet = read(file, file.read_bytes(), "search", SEARCHES)
    assert [letter["reason"] for letter in of_parquet] == ["not UTF-8", "time out of range"]
    details = [
        json.loads(letter["detail"], parse_constant=no_constant) for letter in dead + of_parquet
    ]
    assert [("line" in detail) for detail in details] == [True, False, True, False, False]
    assert details[3]["query"] == r"\xff"
    assert details[4]["time"] == 2**60


# --- the mapping and its folder ---


@pytest.mark.parametrize("files", ["/data/*", "", ".", "../*", "**x/*", "search/../../*"])
def test_patterns_are_of_files_in_the_folder(files: str) -> None:
    mapping = json.dumps({"dataset": "shop", "search": {"files": files}})
    with pytest.raises(ConfigError, match="expected a pattern of files in the input folder"):
        EventsConfig.from_json(mapping)


def test_a_table_without_files_is_an_error_unless_it_is_null(tmp_path: Path) -> None:
    for name in ("search", "clicks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jsonl").write_bytes(b"")
    with pytest.raises(LogError, match=r"click: expected files 'click/\*', or \"click\": null in"):
        find_files(tmp_path, EventsConfig(dataset="shop"))
    alone = EventsConfig(dataset="shop", click=None, conversion=None)
    assert [file.kind for file in find_files(tmp_path, alone)] == ["search"]


def test_users_to_forget_are_lines_and_no_byte_order_mark_is(tmp_path: Path) -> None:
    text = "ann\r\n\n bob \nZo\u2028ë\x85x"
    (tmp_path / "forget.txt").write_bytes(codecs.BOM_UTF8 + text.encode())
    found = Privacy(forget="forget.txt").forgotten(tmp_path)
    assert found == {"ann", "bob", "Zo\u2028ë\x85x"}
