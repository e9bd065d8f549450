"""Logs from a source to disk: what is refused, how it is said, and what is left behind."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.data import parquet
from piano_tf.data.list_index import ListIndex
from piano_tf.data.logs import check_log, find_list, read_batches, read_spec, write_log
from piano_tf.data.source import Source, record_batch
from piano_tf.data.splits import ByDate, ByShare, Cuts
from piano_tf.data.validation import checked
from piano_tf.errors import ConfigError, LogError, PianoError
from piano_tf.features import SPEC_FILE, SPLITS, Axis, FeatureSpec

Row = dict[str, Any]
QUARTERS = ByShare(validation=0.25, test=0.25)
NAN, INFINITY = float("nan"), float("inf")

# (column, what stands there in place of what is right, what the sentence must say of it). Lists of
# `tiny.row` have four candidates and two history entries, and the first item is clicked or not.
FAULTY_VALUES = [
    ("list_id", "", ["''", "identifier"]),
    ("list_id", None, ["null", "string"]),
    ("query", None, ["null", "string"]),
    ("timestamp", None, ["null", "int64"]),
    ("user_plays", NAN, ["nan", "finite"]),
    ("context_hour", INFINITY, ["inf", "finite"]),
    ("item_id", None, ["null", "list"]),
    ("item_id", ["a", "b", "", "d"], ["''", "position 2", "identifier"]),
    ("item_id", ["a", "b", None, "d"], ["None", "position 2", "string"]),
    ("item_artist", ["a", "b", "c"], ["3 values", "expected 4", "'item_id'"]),
    ("item_popularity", [1.0, 2.0, 3.0, 4.0, 5.0], ["5 values", "expected 4", "'item_id'"]),
    ("item_popularity", [0.0, NAN, 0.0, 0.0], ["nan", "position 1", "finite"]),
    ("initial_score", [0.0, 0.0, 0.0, -INFINITY], ["-inf", "position 3", "finite"]),
    ("timestamp", 1_700_000_000_000, ["1700000000000", "Unix seconds", "milliseconds"]),
    ("history_query", ["x"], ["1 values", "expected 2", "'history_item_id'"]),
    ("history_query", ["x", None], ["None", "position 1", "string"]),
    ("history_item_id", ["a", ""], ["''", "position 1", "identifier"]),
    ("history_action", ["click", "skip"], ["'skip'", "position 1", "'click' or 'conversion'"]),
    ("history_age", [1.0, -0.5], ["-0.5", "position 1", ">= 0"]),
    ("history_age", [NAN, 1.0], ["nan", "position 0", "finite"]),
    ("history_item_artist", [], ["0 values", "expected 2"]),
    ("click", [1, 1, 2, 1], ["2", "position 2", "0 or 1"]),
    ("click", [1, 1, -1, 1], ["-1", "position 2", "0 or 1"]),
    ("click", [1, 1, None, 1], ["None", "position 2", "0 or 1"]),
    ("click", [1, 1, 1], ["3 values", "expected 4"]),
    ("conversion", [0, 0, 0, 3], ["3", "position 3", "0 or 1"]),
]


def said_of(fault: pytest.ExceptionInfo[PianoError]) -> str:
    """The message, which is one sentence on one line."""
    message = str(fault.value)
    assert "\n" not in message
    return message


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """Where a log is to be written; nothing else may ever lie beside it."""
    yield tmp_path / "logs" / "tiny"
    beside = {path.name for path in (tmp_path / "logs").glob("*")}
    assert beside <= {"tiny"}, "something half-written was left"


def assert_refused(source: Source, output: Path, rule=QUARTERS, kind=LogError) -> PianoError:
    with pytest.raises(kind) as fault:
        write_log(source, output, rule)
    said_of(fault)
    assert not output.exists()
    return fault.value


# --- the contract ---


def test_what_is_written_is_what_came(tiny, output: Path) -> None:
    rows = tiny.rows(12)
    seen: list[int] = []
    summary = write_log(tiny.source(rows, size=5), output, QUARTERS, progress=seen.append)
    assert summary.lists == {"train": 6, "validation": 3, "test": 3}
    assert seen == [5, 5, 2]
    assert sorted(path.name for path in output.iterdir()) == sorted([*SPLITS, SPEC_FILE])
    assert read_spec(output) == tiny.spec
    back = []
    for split in SPLITS:
        (file,) = (output / split).iterdir()
        table = pq.read_table(file)
        assert table.schema == tiny.spec.arrow_schema
        back += table.to_pylist()
    assert back == rows
    assert check_log(output) == summary


@pytest.mark.parametrize(("column", "value", "words"), FAULTY_VALUES)
def test_faulty_value_is_named_by_column_row_and_value(
    tiny, output: Path, column: str, value: Any, words: list[str]
) -> None:
    rows = [tiny.row(number) for number in range(12)]
    rows[6][column] = value  # the third list of the second batch
    fault = assert_refused(tiny.source(rows), output)
    assert (fault.column, fault.row) == (column, 6)
    assert str(fault) == f"column {column!r}, row 6: {fault.message}"
    for word in words:
        assert word in fault.message


@pytest.mark.parametrize(("key", "fewer"), [("item_id", 3), ("history_item_id", 1)])
def test_the_ids_say_how_long_the_other_columns_are(
    tiny, output: Path, key: str, fewer: int
) -> None:
    rows = [tiny.row(number) for number in range(12)]
    more = len(rows[6][key])
    rows[6][key] = rows[6][key][:fewer]
    fault = assert_refused(tiny.source(rows), output)
    assert fault.row == 6
    assert fault.message == f"got {more} values, expected {fewer} as in {key!r}"
    assert fault.column.startswith("history_") == (key == "history_item_id")


def test_empty_candidate_list(tiny, output: Path) -> None:
    rows = [tiny.row(number, candidates=0 if number == 5 else 3) for number in range(12)]
    fault = assert_refused(tiny.source(rows), output)
    assert (fault.column, fault.row) == ("item_id", 5)
    assert "at least one candidate" in str(fault)


def test_conversion_without_click(tiny, output: Path) -> None:
    rows = [tiny.row(number) for number in range(12)]
    rows[7] |= {"click": [1, 0, 0, 1], "conversion": [1, 0, 1, 1]}
    fault = assert_refused(tiny.source(rows), output)
    assert (fault.column, fault.row) == ("conversion", 7)
    assert "position 2" in str(fault)
    assert "'click' is 0" in str(fault)


@pytest.mark.parametrize("second", [1, 9])  # in the same batch of four, and in a later one
def test_list_id_a_second_time(tiny, output: Path, second: int) -> None:
    rows = [tiny.row(number) for number in range(12)]
    rows[second]["list_id"] = "list-0"
    fault = assert_refused(tiny.source(rows), output)
    assert (fault.column, fault.row) == ("list_id", second)
    assert "'list-0' a second time" in str(fault)


def test_list_ids_are_compared_byte_by_byte(tiny, output: Path) -> None:
    ids = ["a", "A", "a ", "á", "a\u0301", "a\x00", "1", "01"]
    rows = [tiny.row(number, list_id=id) for number, id in enumerate(ids)]
    assert write_log(tiny.source(rows), output, QUARTERS).lists["train"] == 4


def batch_without(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    table = pa.Table.from_batches([batch]).drop([column])
    return table.to_batches()[0]


def batch_with(batch: pa.RecordBatch, column: str, array: pa.Array) -> pa.RecordBatch:
    table = pa.Table.from_batches([batch])
    if column in table.column_names:
        table = table.set_column(table.column_names.index(column), column, array)
    else:
        table = table.append_column(column, array)
    return table.combine_chunks().to_batches()[0]


def test_unknown_column(tiny, output: Path) -> None:
    good, bad = tiny.batch(tiny.rows(4)), tiny.batch([tiny.row(9)])
    bad = batch_with(bad, "item_genre", pa.array([["jazz"] * 4]))
    fault = assert_refused(Source(tiny.spec, iter([good, bad])), output)
    assert (fault.column, fault.row) == ("item_genre", 4)
    assert "unknown column" in str(fault)
    assert "item_artist" in str(fault)  # what would have been known


@pytest.mark.parametrize("column", ["list_id", "item_id", "history_age", "user_plays", "click"])
def test_missing_column(tiny, output: Path, column: str) -> None:
    batch = batch_without(tiny.batch(tiny.rows(4)), column)
    fault = assert_refused(Source(tiny.spec, iter([batch])), output)
    assert fault.column == column
    assert "missing" in str(fault)
    assert str(tiny.spec.arrow_schema.field(column).type) in str(fault)


@pytest.mark.parametrize(
    ("column", "array", "said"),
    [
        ("query", pa.array([1, 2, 3, 4]), "int64"),
        ("timestamp", pa.array(["1", "2", "3", "4"]), "string"),
        ("timestamp", pa.array([0, 1, 2, 3], pa.timestamp("s")), "timestamp[s]"),
        ("user_plays", pa.array(["1", "2", "3", "4"]), "string"),
        ("user_plays", pa.array([[1.0]] * 4), "list"),
        ("item_id", pa.array(["a"] * 4), "got type string"),
        ("item_id", pa.array([[1]] * 4), "int64"),
        ("item_popularity", pa.array([["1"]] * 4), "string"),
        ("click", pa.array([[True]] * 4), "bool"),
        ("history_action", pa.array([[1]] * 4), "int64"),
    ],
)
def test_wrong_type(tiny, output: Path, column: str, array: pa.Array, said: str) -> None:
    rows = [tiny.row(number, candidates=1, history=1) for number in range(4)]
    batch = batch_with(tiny.batch(rows), column, array)
    fault = assert_refused(Source(tiny.spec, iter([batch])), output)
    assert fault.column == column
    assert said in fault.message
    assert str(tiny.spec.arrow_schema.field(column).type) in fault.message


@pytest.mark.parametrize(
    ("column", "value", "type", "said"),
    [
        (
            "click",
            [1, 0.5, 0, 0],
            pa.list_(pa.float64()),
            "got 0.5 at position 1, expected 0 or 1",
        ),
        (
            "conversion",
            [0, 0, 0, NAN],
            pa.list_(pa.float64()),
            "got nan at position 3, expected 0 or 1",
        ),
        ("timestamp", 3.5, pa.float64(), "got 3.5, expected a whole number"),
        ("timestamp", 2**63, pa.uint64(), "expected int64"),
    ],
)
def test_number_that_would_lose_its_meaning_is_named_by_row(
    tiny, output: Path, column: str, value: Any, type: pa.DataType, said: str
) -> None:
    rows = [tiny.row(number) for number in range(8)]
    values = [row[column] for row in rows]
    values[3] = value
    batch = batch_with(tiny.batch(rows), column, pa.array(values, type))
    fault = assert_refused(Source(tiny.spec, iter([batch])), output)
    assert (fault.column, fault.row) == (column, 3)
    assert fault.message.startswith(said)


def test_bytes_that_are_not_utf8_are_refused(tiny, output: Path) -> None:
    """Parquet and Arrow do not check what a writer calls a string."""
    rows = [tiny.row(number) for number in range(8)]
    raw = pa.array([b"\xff" if row["timestamp"] == 3 else b"jazz" for row in rows], pa.binary())
    query = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    batch = batch_with(tiny.batch(rows), "query", query)
    fault = assert_refused(Source(tiny.spec, iter([batch])), output)
    assert (fault.column, fault.row) == ("query", 3)


def test_other_widths_of_the_same_kind_are_taken(tiny, output: Path) -> None:
    rows = [tiny.row(number) for number in range(8)]
    batch = tiny.batch(rows)
    wide = {
        "list_id": pa.large_string(),
        "timestamp": pa.int32(),
        "user_plays": pa.int16(),
        "item_id": pa.large_list(pa.large_string()),
        "item_popularity": pa.list_(pa.float64()),
        "click": pa.list_(pa.uint8()),
        "conversion": pa.list_(pa.float32()),
    }
    for column, type in wide.items():
        batch = batch_with(batch, column, pa.array([row[column] for row in rows], type))
    (backwards,) = pa.Table.from_batches([batch]).select(batch.schema.names[::-1]).to_batches()
    write_log(Source(tiny.spec, iter([backwards])), output, QUARTERS)
    table = pq.read_table(output / "train")
    assert table.to_pylist() == rows[:4]
    assert table.schema == tiny.spec.arrow_schema


def test_too_large_for_float32_is_not_finite(tiny, output: Path) -> None:
    rows = [tiny.row(number) for number in range(4)]
    ages = pa.array([[1.0, 1e300]] + [[1.0, 2.0]] * 3, pa.list_(pa.float64()))
    batch = batch_with(tiny.batch(rows), "history_age", ages)
    fault = assert_refused(Source(tiny.spec, iter([batch])), output)
    assert (fault.column, fault.row) == ("history_age", 0)


def test_histories_all_empty_need_no_type(tiny, output: Path) -> None:
    rows = [tiny.row(number, history=0) for number in range(8)]
    batch = tiny.batch(rows)
    for column in tiny.spec.columns():
        if column.axis is Axis.HISTORY:
            batch = batch_with(batch, column.name, pa.array([[]] * 8))  # lists of null
    write_log(Source(tiny.spec, iter([batch])), output, QUARTERS)
    assert pq.read_table(output / "train").to_pylist() == rows[:4]


def test_rows_are_counted_in_slices_too(tiny) -> None:
    """Batches from Parquet are often slices, whose offsets do not begin at 0."""
    rows = [tiny.row(number, candidates=1 + number % 3) for number in range(6)]
    rows[4]["click"] = [2] * len(rows[4]["item_id"])
    batch = tiny.batch(rows)
    with pytest.raises(LogError) as fault:
        list(checked([batch.slice(0, 3), batch.slice(3)], tiny.spec, source="here"))
    assert (fault.value.column, fault.value.row, fault.value.source) == ("click", 4, "here")
    assert str(fault.value).startswith("here, column 'click', row 4: got 2 at position 0")


def test_columns_of_a_column_twice_are_refused(tiny, output: Path) -> None:
    batch = tiny.batch(tiny.rows(4))
    twice = pa.RecordBatch.from_arrays(
        [*batch.columns, batch.column(0)], names=[*batch.schema.names, "list_id"]
    )
    assert assert_refused(Source(tiny.spec, iter([twice])), output).column == "list_id"


# --- splits ---


def split_ids(folder: Path) -> dict[str, list[str]]:
    return {
        split: pq.read_table(folder / split, columns=["list_id"])["list_id"].to_pylist()
        for split in SPLITS
    }


@pytest.mark.parametrize(
    ("total", "validation", "test"),
    [(8, 0.25, 0.25), (10, 0.1, 0.1), (20, 0.2, 0.1), (10, 0.2, 0.3), (10, 0.3, 0.3)],
)
def test_shares_of_lists_in_order_of_time(
    tiny, output: Path, total: int, validation: float, test: float
) -> None:
    shuffled = np.random.default_rng(total).permutation(total)
    rows = [tiny.row(int(number)) for number in shuffled]
    summary = write_log(tiny.source(rows, size=3), output, ByShare(validation, test))
    expected = {"validation": round(validation * total), "test": round(test * total)}
    expected = {"train": total - sum(expected.values()), **expected}
    assert summary.lists == expected
    found = split_ids(output)
    first = 0
    for split in SPLITS:
        ids = {f"list-{number}" for number in range(first, first + expected[split])}
        assert set(found[split]) == ids
        first += expected[split]


@given(
    times=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    validation=st.floats(0.05, 0.45),
    test=st.floats(0.05, 0.45),
)
@settings(max_examples=30)
def test_cuts_by_share_keep_a_second_together_and_give_no_split_more_than_its_share(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], validation: float, test: float
) -> None:
    path = tmp_path_factory.mktemp("index") / "lists"
    with ListIndex(path) as index:
        ids = [str(number) for number in range(len(times))]
        index.add(pa.RecordBatch.from_pydict({"list_id": ids, "timestamp": times}))
        cuts = ByShare(validation, test).cuts(index)
    where = cuts.split_of(np.array(times))
    assert list(where[np.argsort(times, kind="stable")]) == sorted(where)
    for second in set(times):
        assert len({split for time, split in zip(times, where, strict=True) if time == second}) == 1
    # A cut at a second takes the whole second, so that what comes before a cut is never more than
    # its share of lists.
    assert (where == 0).sum() <= (1 - validation - test) * len(times) + 1e-6
    assert (where < 2).sum() <= (1 - test) * len(times) + 1e-6


def test_lists_of_one_second_stay_together(tiny, output: Path) -> None:
    times = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    rows = [tiny.row(number, timestamp=time) for number, time in enumerate(times)]
    summary = write_log(tiny.source(rows), output, ByShare(validation=0.3, test=0.2))
    assert summary.lists == {"train": 3, "validation": 4, "test": 3}
    check_log(output)


def day(number: int) -> int:
    return int(dt.datetime(2024, 5, number, tzinfo=dt.timezone.utc).timestamp())


def test_split_at_midnights_utc(tiny, output: Path) -> None:
    times = [day(2) - 1, day(2), day(3) - 1, day(3), day(9)]
    rows = [tiny.row(number, timestamp=time) for number, time in enumerate(times)]
    rule = ByDate(dt.date(2024, 5, 2), dt.date(2024, 5, 3))
    write_log(tiny.source(rows), output, rule)
    assert split_ids(output) == {
        "train": ["list-0"],
        "validation": ["list-1", "list-2"],
        "test": ["list-3", "list-4"],
    }


@pytest.mark.parametrize(
    ("rule", "empty"),
    [
        (ByDate(dt.date(2024, 5, 1), dt.date(2024, 5, 2)), "train"),
        (ByDate(dt.date(2024, 5, 8), dt.date(2024, 5, 9)), "validation"),
        (ByDate(dt.date(2024, 5, 3), dt.date(2024, 5, 9)), "test"),
    ],
)
def test_empty_split_is_an_error_that_names_it(tiny, output: Path, rule, empty: str) -> None:
    rows = [tiny.row(number, timestamp=day(number)) for number in range(1, 7)]
    if empty == "validation":
        rows.append(tiny.row(9, timestamp=day(9)))
    fault = assert_refused(tiny.source(rows), output, rule, PianoError)
    assert f"split {empty!r} has no lists" in str(fault)


def test_log_of_one_second_cannot_be_split(tiny, output: Path) -> None:
    rows = [tiny.row(number, timestamp=5) for number in range(9)]
    assert "has no lists" in str(assert_refused(tiny.source(rows), output, kind=PianoError))


def test_source_without_lists(tiny, output: Path) -> None:
    assert "no lists" in str(assert_refused(tiny.source([]), output, kind=PianoError))


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.2), (NAN, 0.1)])
def test_shares_that_leave_nothing_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(PianoError) as fault:
        ByShare(*shares)
    assert str(shares[0]) in said_of(fault)


def test_dates_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(PianoError, match="validation to begin before test"):
        ByDate(dt.date(2024, 5, 2), dt.date(2024, 5, 2))


def test_every_second_has_one_split() -> None:
    cuts = Cuts(validation_from=10, test_from=20)
    seconds = np.arange(0, 30)
    assert (cuts.split_of(seconds) == (seconds >= 10).astype(int) + (seconds >= 20)).all()


# --- the list index ---


def index_batch(*pairs: tuple[str, int]) -> pa.RecordBatch:
    ids, times = zip(*pairs, strict=True)
    return pa.RecordBatch.from_pydict({"list_id": list(ids), "timestamp": list(times)})


def test_index_counts_rows_on_or_from_where_it_is_told(tmp_path: Path) -> None:
    with ListIndex(tmp_path / "lists") as index:
        index.add(index_batch(("a", 3), ("b", 1)))
        assert len(index) == 2
        with pytest.raises(LogError) as counted:
            index.add(index_batch(("c", 0), ("a", 9)))
        assert (counted.value.row, counted.value.source) == (3, None)
        with pytest.raises(LogError) as told:
            index.add(index_batch(("d", 0), ("b", 9)), first_row=100, source="part-7")
        assert (told.value.row, told.value.source) == (101, "part-7")


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20), st.integers(0, 16))
@settings(max_examples=30)
def test_index_finds_the_time_below_which_a_share_lies(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], sixteenths: int
) -> None:
    with ListIndex(tmp_path_factory.mktemp("index") / "lists") as index:
        index.add(index_batch(*((str(number), time) for number, time in enumerate(times))))
        place = min(sixteenths * len(times) // 16, len(times) - 1)
        assert index.timestamp_at(sixteenths / 16) == sorted(times)[place]


# --- what is left behind ---


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_existing_log_is_not_replaced_unasked(tiny, output: Path) -> None:
    tiny.write(output, tiny.rows(8))
    before = snapshot(output)
    with pytest.raises(PianoError, match="exists already") as fault:
        write_log(tiny.source(tiny.rows(12)), output, QUARTERS)
    assert str(output) in said_of(fault)
    assert snapshot(output) == before


def test_existing_log_is_replaced_when_asked(tiny, output: Path) -> None:
    tiny.write(output, tiny.rows(8))
    write_log(tiny.source(tiny.rows(12)), output, QUARTERS, overwrite=True)
    assert sum(check_log(output).lists.values()) == 12
    assert sorted(path.name for path in output.iterdir()) == sorted([*SPLITS, SPEC_FILE])


def failing_source(tiny, error: BaseException) -> Source:
    def batches() -> Iterator[pa.RecordBatch]:
        yield tiny.batch(tiny.rows(4))
        raise error

    return Source(tiny.spec, batches())


@pytest.mark.parametrize("error", [RuntimeError("disk"), KeyboardInterrupt()], ids=type)
@pytest.mark.parametrize("existing", [False, True])
def test_source_that_breaks_off_leaves_what_was_there(
    tiny, output: Path, error: BaseException, existing: bool
) -> None:
    if existing:
        tiny.write(output, tiny.rows(8))
    before = snapshot(output)
    with pytest.raises(type(error)):
        write_log(failing_source(tiny, error), output, QUARTERS, overwrite=True)
    assert output.exists() == existing
    assert snapshot(output) == before


def test_existing_log_survives_a_faulty_one(tiny, output: Path) -> None:
    tiny.write(output, tiny.rows(8))
    before = snapshot(output)
    faulty = [*tiny.rows(8), tiny.row(9, query=None)]
    with pytest.raises(LogError):
        write_log(tiny.source(faulty), output, QUARTERS, overwrite=True)
    one_second = [tiny.row(number, timestamp=0) for number in range(9)]
    with pytest.raises(PianoError):
        write_log(tiny.source(one_second), output, QUARTERS, overwrite=True)
    assert snapshot(output) == before


def test_existing_log_survives_a_failure_at_the_last_step(
    tiny, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(output, tiny.rows(8))
    before = snapshot(output)
    rename = Path.rename

    def rename_unless_to_output(self: Path, target: Path) -> Path:
        # Of all renames only the one that puts the new log in place is interrupted.
        if Path(target) == output and (self / SPEC_FILE).exists() and snapshot(self) != before:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_unless_to_output)
    with pytest.raises(KeyboardInterrupt):
        write_log(tiny.source(tiny.rows(12)), output, QUARTERS, overwrite=True)
    assert snapshot(output) == before


# The second is how a team's own logs look before they are split.
@pytest.mark.parametrize("name", ["thesis.txt", SPEC_FILE])
def test_folder_that_is_no_log_is_never_overwritten(tiny, output: Path, name: str) -> None:
    output.mkdir(parents=True)
    (output / name).write_text("years of work")
    with pytest.raises(PianoError, match="is not a log"):
        write_log(tiny.source(tiny.rows(8)), output, QUARTERS, overwrite=True)
    assert snapshot(output) == {name: b"years of work"}


def test_file_in_place_of_a_folder_is_never_overwritten(tiny, output: Path) -> None:
    output.parent.mkdir(parents=True)
    output.write_text("years of work")
    with pytest.raises(PianoError) as fault:
        write_log(tiny.source(tiny.rows(8)), output, QUARTERS, overwrite=True)
    assert str(output) in said_of(fault)
    assert output.read_text() == "years of work"


def test_empty_folder_may_be_filled_when_asked(tiny, output: Path) -> None:
    output.mkdir(parents=True)
    write_log(tiny.source(tiny.rows(8)), output, QUARTERS, overwrite=True)
    assert sum(check_log(output).lists.values()) == 8


def test_others_may_read_what_is_written(tiny, output: Path) -> None:
    tiny.write(output, tiny.rows(8))
    assert output.stat().st_mode & 0o777 == 0o755


# --- memory ---


def test_what_is_held_does_not_grow_with_the_log(tiny, output: Path) -> None:
    """When a batch is asked for, those before the last are gone, in whatever form."""
    size, batches = 256, 16
    handed_out: list[weakref.ref] = []
    alive: list[int] = []
    allocated: list[int] = []

    def generated() -> Iterator[pa.RecordBatch]:
        for start in range(0, batches * size, size):
            alive.append(sum(ref() is not None for ref in handed_out))
            allocated.append(pa.total_allocated_bytes())
            batch = tiny.batch([tiny.row(0)] * size)
            for column, type in (("list_id", pa.string()), ("timestamp", pa.int64())):
                numbers = pa.array(range(start, start + size), pa.int64())
                batch = batch_with(batch, column, numbers.cast(type))
            handed_out.append(weakref.ref(batch))
            yield batch
            del batch

    write_log(Source(tiny.spec, generated()), output, QUARTERS)
    assert len(alive) == batches
    assert max(alive) <= 1
    each = tiny.batch([tiny.row(0)] * size).nbytes
    assert max(allocated) - allocated[0] < batches * each / 2


def test_reading_gives_batches_of_the_rows_asked_for(tiny, output: Path) -> None:
    tiny.write(output, tiny.rows(20))
    files = [output / split / "part-00000.parquet" for split in SPLITS]
    batches = list(read_batches(files, rows=3))
    assert [batch.num_rows for batch in batches] == [3, 3, 3, 1, 3, 2, 3, 2]
    found = [name for batch in batches for name in batch.column("list_id").to_pylist()]
    assert found == [name for names in split_ids(output).values() for name in names]


# --- logs on disk ---


@pytest.fixture
def log(tiny, tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "log", [tiny.row(number) for number in range(12)])


def rewrite(log: Path, split: str, change: Callable[[list[Row]], None], schema: pa.Schema) -> Path:
    file = log / split / "part-00000.parquet"
    rows = pq.read_table(file).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    return file


@pytest.mark.parametrize(("column", "value", "words"), FAULTY_VALUES)
def test_check_finds_the_faults_that_writing_refuses(
    tiny, log: Path, column: str, value: Any, words: list[str]
) -> None:
    def change(rows: list[Row]) -> None:
        rows[1][column] = value

    file = rewrite(log, "validation", change, tiny.spec.arrow_schema)
    with pytest.raises(LogError) as fault:
        check_log(log)
    for word in words:
        assert word in said_of(fault)
    assert (fault.value.row, fault.value.source) == (1, str(file))
    assert str(fault.value).startswith(f"{file}, column ")


def test_check_counts_rows_within_each_file(tiny, log: Path) -> None:
    schema = tiny.spec.arrow_schema
    late = [tiny.row(100), tiny.row(101, query=None)]
    file = log / "test" / "part-00001.parquet"
    pq.write_table(pa.Table.from_pylist(late, schema=schema), file)
    with pytest.raises(LogError) as fault:
        check_log(log)
    assert (fault.value.row, fault.value.source) == (1, str(file))


@pytest.mark.parametrize("split", ["train", "test"])
def test_check_finds_a_list_id_twice_within_and_across_splits(tiny, log: Path, split: str) -> None:
    def change(rows: list[Row]) -> None:
        rows[2]["list_id"] = "list-1"

    file = rewrite(log, split, change, tiny.spec.arrow_schema)
    with pytest.raises(LogError) as fault:
        check_log(log)
    assert (fault.value.column, fault.value.row) == ("list_id", 2)
    assert fault.value.source == str(file)
    assert "'list-1'" in said_of(fault)


def test_check_finds_missing_and_unknown_columns(tiny, log: Path) -> None:
    file = log / "train" / "part-00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop(["user_plays"]), file)
    with pytest.raises(LogError, match=r"'user_plays'.*missing"):
        check_log(log)
    pq.write_table(table.append_column("extra", pa.array([1] * table.num_rows)), file)
    with pytest.raises(LogError, match=r"'extra'.*unknown"):
        check_log(log)


@pytest.mark.parametrize("time", [5, 4])  # the newest second of train, and an older one
def test_check_finds_splits_that_overlap_in_time(tiny, log: Path, time: int) -> None:
    def change(rows: list[Row]) -> None:
        rows[2]["timestamp"] = time

    rewrite(log, "validation", change, tiny.spec.arrow_schema)
    with pytest.raises(LogError) as fault:
        check_log(log)
    assert fault.value.column == "timestamp"
    assert fault.value.source == str(log / "validation")
    assert f"got a list at {time} s" in said_of(fault)
    assert "until 5 s" in str(fault.value)


@pytest.mark.parametrize("kept", [0, 4, 0.5, -1])
def test_check_finds_a_truncated_file(log: Path, kept: float) -> None:
    file = log / "validation" / "part-00000.parquet"
    whole = file.read_bytes()
    cut = int(len(whole) * kept) if isinstance(kept, float) else kept
    file.write_bytes(whole[:cut])
    with pytest.raises(LogError) as fault:
        check_log(log)
    assert "cannot be read as Parquet" in said_of(fault)
    assert fault.value.source == str(file)


def test_check_finds_a_file_damaged_in_the_middle(log: Path) -> None:
    file = log / "validation" / "part-00000.parquet"
    whole = bytearray(file.read_bytes())
    whole[4:200] = bytes(196)  # the first column's pages; the footer still reads well
    file.write_bytes(whole)
    with pytest.raises(LogError) as fault:
        check_log(log)
    assert fault.value.source == str(file)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("folder", [False, True])
def test_check_finds_a_missing_split(log: Path, split: str, folder: bool) -> None:
    shutil.rmtree(log / split)
    if folder:
        (log / split).mkdir()
    with pytest.raises(LogError) as fault:
        check_log(log)
    assert fault.value.source == str(log / split)
    assert "*.parquet" in said_of(fault)


@pytest.mark.parametrize("split", SPLITS)
def test_check_finds_a_split_without_lists(tiny, log: Path, split: str) -> None:
    rewrite(log, split, lambda rows: rows.clear(), tiny.spec.arrow_schema)
    with pytest.raises(PianoError, match=f"split {split!r} has no lists"):
        check_log(log)


def test_check_finds_a_missing_or_wrong_spec(log: Path) -> None:
    (log / SPEC_FILE).write_text('{"dataset": "tiny", "items": {}}')
    with pytest.raises(ConfigError, match="items"):
        check_log(log)
    (log / SPEC_FILE).unlink()
    with pytest.raises(ConfigError, match=f"{SPEC_FILE}: no such file"):
        check_log(log)


def test_check_leaves_the_log_as_it_is(log: Path) -> None:
    before = snapshot(log)
    check_log(log)
    assert snapshot(log) == before
    assert sorted(path.name for path in log.parent.iterdir()) == ["log"]


# --- a single list ---


def test_one_list_is_found_by_its_id_or_by_having_a_history(tiny, tmp_path: Path) -> None:
    rows = [tiny.row(number, history=2 if number == 3 else 0) for number in range(16)]
    log = tiny.write(tmp_path / "log", rows)
    assert find_list(log, "train") == rows[3]
    assert find_list(log, "test") == rows[12]  # none there has a history
    assert find_list(log, "validation", "list-9") == rows[9]


def test_a_list_that_is_not_there_is_one_sentence(log: Path) -> None:
    with pytest.raises(LogError) as fault:
        find_list(log, "test", "list-0")  # of another split
    assert "'list-0'" in said_of(fault)
    assert str(fault.value).startswith(f"{log / 'test'}, column 'list_id'")


# --- the Parquet adapter ---


@pytest.fixture
def own_logs(tiny, tmp_path: Path) -> Path:
    """A team's own two files, in the order of their names, with numbers of other widths."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number, rows in enumerate((tiny.rows(12)[:5], tiny.rows(12)[5:])):
        pq.write_table(pa.Table.from_batches([tiny.batch(rows)]), folder / f"{number}.parquet")
    (folder / SPEC_FILE).write_text(tiny.spec.model_dump_json())
    return folder


def test_own_parquet_files_become_a_log(tiny, own_logs: Path, output: Path) -> None:
    source = parquet.read(own_logs)
    assert source.spec == tiny.spec
    assert source.total == 12
    summary = write_log(source, output, QUARTERS)
    assert summary.lists == {"train": 6, "validation": 3, "test": 3}
    assert [id for ids in split_ids(output).values() for id in ids] == [
        row["list_id"] for row in tiny.rows(12)
    ]


def test_own_parquet_faults_name_the_file_and_its_row(tiny, own_logs: Path, output: Path) -> None:
    bad = [tiny.row(number, candidates=1) for number in (20, 21)]
    bad[1] |= {"click": [0], "conversion": [1]}
    pq.write_table(pa.Table.from_batches([tiny.batch(bad)]), own_logs / "2.parquet")
    fault = assert_refused(parquet.read(own_logs), output)
    assert (fault.source, fault.column, fault.row) == (
        str(own_logs / "2.parquet"),
        "conversion",
        1,
    )


def test_own_folder_without_files_or_spec(tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=SPEC_FILE):
        parquet.read(tmp_path)
    (tmp_path / SPEC_FILE).write_text(tiny.spec.model_dump_json())
    with pytest.raises(LogError, match=r"expected \*\.parquet files") as fault:
        parquet.read(tmp_path)
    assert fault.value.source == str(tmp_path)


def test_own_file_that_is_no_parquet(own_logs: Path) -> None:
    (own_logs / "1.parquet").write_bytes(b"PAR1 but not for long")
    with pytest.raises(LogError, match="cannot be read as Parquet") as fault:
        parquet.read(own_logs)
    said_of(fault)


# --- record_batch ---


def test_flat_values_become_lists(tiny) -> None:
    spec = FeatureSpec(dataset="shop", user={"plays": "float"})
    values = {
        "list_id": ["a", "b"],
        "user_id": ["u", "u"],
        "query": ["", "q"],
        "timestamp": np.array([1, 2], np.int32),
        "user_plays": np.array([1, 2]),
        "item_id": pa.array(["x", "y", "z"]),
        "history_query": ["q"],
        "history_item_id": ["x"],
        "history_action": ["click"],
        "history_age": [3],
        "click": [1, 0, 1],
        "conversion": [0, 0, 1],
    }
    lengths = {Axis.ITEM: np.array([1, 2]), Axis.HISTORY: np.array([0, 1])}
    batch = record_batch(spec, values, lengths)
    assert batch.schema == spec.arrow_schema
    first, second = batch.to_pylist()
    assert first["item_id"] == ["x"]
    assert second["item_id"] == ["y", "z"]
    assert (first["history_item_id"], second["history_item_id"]) == ([], ["x"])
    assert second["user_plays"] == 2.0
    assert next(checked([batch], spec)).equals(batch)


def test_spec_on_disk_is_the_spec(tiny, log: Path) -> None:
    written = json.loads((log / SPEC_FILE).read_text())
    assert written == json.loads(tiny.spec.model_dump_json())
