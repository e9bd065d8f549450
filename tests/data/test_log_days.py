"""A log cut into days: nothing lost, each day a log, nothing left behind on a fault."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from piano_tf.data.days import write_days
from piano_tf.data.logs import check_log, read_spec, split_files, write_log
from piano_tf.data.splits import ByShare
from piano_tf.errors import LogError, PianoError
from piano_tf.features import SPEC_FILE, SPLITS

DAY = 86_400
FIRST = 1_704_067_200  # 2024-01-01 00:00 UTC
DAYS = [dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 3)]
QUARTERS = ByShare(validation=0.25, test=0.25)


def written(tiny, folder: Path, *, per_day: int = 8, first: int = FIRST, spec=None) -> Path:
    """A log of three days, cut where days are not."""
    rows = []
    for day in range(len(DAYS)):
        for number in range(per_day):
            time = first + day * DAY + number * DAY // per_day
            rows.append(tiny.row(len(rows), timestamp=time, list_id=f"{time}"))
    write_log(tiny.source(rows), folder, QUARTERS)
    return folder


def lists_of(log_dir: Path) -> list[dict]:
    return [
        row
        for split in SPLITS
        for file in split_files(log_dir, split)
        for row in pq.read_table(file).to_pylist()
    ]


def test_every_list_is_on_its_day_and_each_day_is_a_log(tiny, tmp_path: Path) -> None:
    log = written(tiny, tmp_path / "log")
    found = write_days(log, tmp_path / "days", QUARTERS)
    assert list(found) == DAYS
    assert read_spec(tmp_path / "days") == read_spec(log)
    every = []
    for day, summary in found.items():
        folder = tmp_path / "days" / day.isoformat()
        assert check_log(folder) == summary
        assert summary.lists == {"train": 4, "validation": 2, "test": 2}
        rows = lists_of(folder)
        assert {dt.datetime.utcfromtimestamp(row["timestamp"]).date() for row in rows} == {day}
        every += rows
    assert every == lists_of(log)


def test_days_are_added_and_replaced_only_when_asked(tiny, tmp_path: Path) -> None:
    days = tmp_path / "days"
    write_days(written(tiny, tmp_path / "log"), days, QUARTERS)
    later = written(tiny, tmp_path / "later", first=FIRST + 2 * DAY, per_day=12)
    before = {day: lists_of(days / str(day)) for day in DAYS}
    with pytest.raises(PianoError, match="2024-01-03 exists already"):
        write_days(later, days, QUARTERS)
    assert sorted(path.name for path in days.iterdir()) == [*map(str, DAYS), SPEC_FILE]

    write_days(later, days, QUARTERS, overwrite=True)
    assert len(lists_of(days / "2024-01-03")) == 12
    assert len(lists_of(days / "2024-01-05")) == 12
    assert lists_of(days / "2024-01-02") == before[DAYS[1]]


def test_a_day_that_cannot_be_cut_is_named_and_no_day_is_written(tiny, tmp_path: Path) -> None:
    rows = [
        tiny.row(number, timestamp=FIRST + number * DAY // 8, list_id=str(number))
        for number in range(8)
    ]
    rows.append(tiny.row(8, timestamp=FIRST + DAY, list_id="alone"))
    write_log(tiny.source(rows), tmp_path / "log", QUARTERS)
    with pytest.raises(PianoError, match="day 2024-01-02: split 'train' has no lists"):
        write_days(tmp_path / "log", tmp_path / "days", QUARTERS)
    assert not list((tmp_path / "days").iterdir())


def test_days_of_other_columns_are_refused(tiny, tmp_path: Path) -> None:
    log = written(tiny, tmp_path / "log")
    days = tmp_path / "days"
    days.mkdir()
    other = read_spec(log).model_copy(update={"dataset": "other"})
    (days / SPEC_FILE).write_text(other.model_dump_json())
    with pytest.raises(LogError, match="says other columns than"):
        write_days(log, days, QUARTERS)
    assert [path.name for path in days.iterdir()] == [SPEC_FILE]
