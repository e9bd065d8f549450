"""What happened in a split, against a slow reading row by row."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from piano_tf.errors import LogError
from piano_tf.evaluation.lists import Lists, concatenate, read_lists
from piano_tf.features import LABELS, SPLITS


def rows_of(log_dir: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(log_dir / split).to_pylist()


def assert_same(found: Lists, expected: Mapping[str, Any]) -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(
            found.labels[name] if name in LABELS else getattr(found, name), values, err_msg=name
        )


def padded(values: list[list[Any]], width: int) -> list[list[Any]]:
    return [row + [0] * (width - len(row)) for row in values]


@pytest.mark.parametrize("split", SPLITS)
def test_every_field_is_what_a_reading_row_by_row_finds(log_dir: Path, split: str) -> None:
    asked: collections.Counter = collections.Counter()
    clicked: collections.Counter = collections.Counter()
    for row in rows_of(log_dir, "train"):
        asked[row["query"]] += 1
        clicked.update(x for x, y in zip(row["item_id"], row["click"], strict=True) if y)
    rows = rows_of(log_dir, split)
    width = max(len(row["item_id"]) for row in rows)
    popularity = [[clicked[item] for item in row["item_id"]] for row in rows]
    assert any(len(row["item_id"]) < width for row in rows)
    assert len({x for row in popularity for x in row}) > 2
    found = read_lists(log_dir, split)
    assert len(found) == len(rows)
    assert_same(
        found,
        {
            "list_id": [row["list_id"] for row in rows],
            "user_id": [row["user_id"] for row in rows],
            "mask": padded([[1] * len(row["item_id"]) for row in rows], width),
            "click": padded([row["click"] for row in rows], width),
            "conversion": padded([row["conversion"] for row in rows], width),
            "history_length": [len(row["history_item_id"]) for row in rows],
            "query_frequency": [asked[row["query"]] for row in rows],
            "item_popularity": padded(popularity, width),
        },
    )
    for label in LABELS:
        assert found.labels[label].dtype == bool
        np.testing.assert_array_equal(found.any(label), [any(row[label]) for row in rows])


def test_what_training_never_saw_has_frequency_and_popularity_zero(tiny, tmp_path: Path) -> None:
    rows = tiny.rows(8)
    rows[-1] |= {"query": "never asked", "item_id": ["never", "shown"]}
    lists = read_lists(tiny.write(tmp_path / "log", rows), "test")
    assert lists.query_frequency[-1] == 0 and not lists.item_popularity[-1].any()
    assert lists.query_frequency[:-1].any() or lists.item_popularity[:-1].any()


def test_several_files_are_one_split(log_dir: Path, tmp_path: Path) -> None:
    parts = tmp_path / "log"
    shutil.copytree(log_dir, parts)
    (file,) = (parts / "train").glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 7), file)
    pq.write_table(table.slice(7), parts / "train" / "part-00001.parquet", row_group_size=5)
    whole, cut = read_lists(log_dir, "train"), read_lists(parts, "train")
    fields = {name: values for name, values in vars(whole).items() if name != "labels"}
    assert_same(cut, {**fields, **whole.labels})


@pytest.mark.parametrize("column", ["conversion", "history_item_id", "query"])
def test_a_missing_column_is_named(log_dir: Path, tmp_path: Path, column: str) -> None:
    other = tmp_path / "log"
    shutil.copytree(log_dir, other)
    (file,) = (other / "test").glob("*.parquet")
    pq.write_table(pq.read_table(file).drop([column]), file)
    with pytest.raises(LogError, match=f"test.*column '{column}': missing"):
        read_lists(other, "test")
    assert len(read_lists(other, "validation"))


def test_a_split_without_lists_is_said_so(log_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "log"
    shutil.copytree(log_dir, other)
    (file,) = (other / "test").glob("*.parquet")
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(LogError, match="test: has no lists"):
        read_lists(other, "test")


def test_folds_stand_one_after_the_other_padded_to_the_widest(tiny, tmp_path: Path) -> None:
    narrow = tiny.write(
        tmp_path / "narrow", [tiny.row(number, candidates=2) for number in range(8)]
    )
    wide = tiny.write(tmp_path / "wide", [tiny.row(number, candidates=5) for number in range(8)])
    parts = [read_lists(folder, "test") for folder in (narrow, wide)]
    both = concatenate(parts)
    assert both.mask.shape == (4, 5) and len(both) == 4
    for number, part in enumerate(parts):
        rows, width = slice(2 * number, 2 * number + 2), part.mask.shape[1]
        for name in ("list_id", "user_id", "history_length", "query_frequency"):
            np.testing.assert_array_equal(getattr(both, name)[rows], getattr(part, name))
        for of_both, of_part in (
            (both.mask, part.mask),
            (both.item_popularity, part.item_popularity),
            *((both.labels[label], part.labels[label]) for label in LABELS),
        ):
            np.testing.assert_array_equal(of_both[rows, :width], of_part)
            assert not of_both[rows, width:].any()
            assert of_both.dtype == of_part.dtype
