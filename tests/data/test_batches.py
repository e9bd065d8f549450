"""Lists as padded arrays, and as `tf.data` for training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.data.batches import dataset, labels_of, pad, padded, raw_batches, raw_specs
from piano_tf.data.encoding import Encoder
from piano_tf.errors import LogError
from piano_tf.features import LABELS, Axis, Column
from piano_tf.masks import mask_of

values = {
    "string": st.text(max_size=3),
    "float": st.floats(width=32, allow_nan=False),
    "int64": st.integers(-(2**63), 2**63 - 1),
}


@st.composite
def columns_of_lists(draw: st.DrawFn) -> tuple[Column, list[list[Any]]]:
    type = draw(st.sampled_from(sorted(values)))
    lists = draw(st.lists(st.lists(values[type], max_size=5), min_size=1, max_size=6))
    return Column("item_any", type, Axis.ITEM), lists


@given(columns_of_lists(), st.data())
@settings(max_examples=60)
def test_padding_keeps_every_value_and_adds_only_zeros(
    made: tuple[Column, list[list[Any]]], data: st.DataObject
) -> None:
    column, lists = made
    start = data.draw(st.integers(0, len(lists)))
    array = pa.array(lists, column.arrow_type).slice(start)  # a slice has offsets of its own
    lists = array.to_pylist()
    dense = pad(array, column)
    empty = "" if column.type == "string" else 0
    assert dense.shape == (len(lists), max(map(len, lists), default=0))
    for row, expected in zip(dense, lists, strict=True):
        assert row[: len(expected)].tolist() == expected
        assert (row[len(expected) :] == empty).all()


def test_padded_batch_against_the_rows(tiny) -> None:
    rows = tiny.rows(9)
    batch = tiny.batch(rows)
    found = padded(batch, tiny.spec)
    assert [*found] == [column.name for column in tiny.spec.columns()]
    assert [*padded(batch, tiny.spec, labels=False)] == [*found][:-2]
    real = {axis: mask_of(found, axis).numpy() for axis in (Axis.ITEM, Axis.HISTORY)}
    for column in tiny.spec.columns():
        values = found[column.name]
        if column.axis is Axis.LIST:
            assert values.tolist() == [row[column.name] for row in rows]
        else:
            for row, shown, mask in zip(rows, values, real[column.axis], strict=True):
                assert shown[mask].tolist() == row[column.name]
                assert not shown[~mask].any()
    assert found["click"].dtype == np.int64
    assert found["history_age"].dtype == np.float32


def test_specs_describe_the_padded_batch(tiny) -> None:
    found = padded(tiny.batch(tiny.rows(9)), tiny.spec)
    specs = raw_specs(tiny.spec)
    assert specs.keys() == found.keys()
    for name, spec in specs.items():
        assert spec.is_compatible_with(tf.constant(found[name])), name
    assert raw_specs(tiny.spec, labels=False).keys() == found.keys() - set(LABELS)


def test_raw_batches_have_every_list_once_in_order(tiny, log_dir: Path) -> None:
    batches = list(raw_batches(log_dir, "train", tiny.spec, rows=6))
    assert [len(batch["list_id"]) for batch in batches] == [6, 6, 6, 2]
    ids = [id for batch in batches for id in batch["list_id"]]
    assert ids == [row["list_id"] for row in tiny.rows(20)]


# --- tf.data ---


def plays(batches: Iterable) -> list[float]:
    """`user_plays` of every list: no two lists of the tiny log have the same."""
    return [float(value) for inputs, _ in batches for value in inputs["user_plays"]]


def test_no_list_is_dropped_and_the_last_batch_may_be_smaller(tiny, log_dir, encoder) -> None:
    lists = list(dataset(log_dir, "train", encoder, batch_size=8))
    assert [len(inputs["user_id"]) for inputs, _ in lists] == [8, 8, 4]
    assert sum(map(float, lists[-1][0]["user_plays"])) != 0
    raw = tiny.raw(tiny.rows(20))
    expected, labels = encoder(raw), labels_of(raw)
    start = 0
    for inputs, found in lists:
        for encoded, whole in ((inputs, expected), (found, labels)):
            assert encoded.keys() == whole.keys()
            for name, values in encoded.items():
                part = whole[name][start : start + len(values)].numpy()
                width = tuple(slice(size) for size in values.shape)
                np.testing.assert_array_equal(values, part[width], err_msg=name)
                # What the batch has no room for is padding.
                assert np.count_nonzero(part) == np.count_nonzero(values)
        start += len(inputs["user_id"])
    assert start == len(raw["list_id"])


def test_a_batch_larger_than_the_split(log_dir: Path, encoder: Encoder) -> None:
    ((inputs, labels),) = dataset(log_dir, "test", encoder, batch_size=64)
    assert len(inputs["user_id"]) == 10
    assert labels["click"].dtype == tf.float32
    assert labels["click"].shape == inputs["item_id"].shape


def test_shuffling_is_a_seeded_permutation_anew_each_epoch(
    tiny, log_dir: Path, encoder: Encoder, tmp_path: Path
) -> None:
    def shuffled(seed: int, cache: Path | None = None) -> tf.data.Dataset:
        return dataset(log_dir, "train", encoder, batch_size=8, shuffle_seed=seed, cache=cache)

    in_order = plays([(encoder(tiny.raw(tiny.rows(20))), {})])
    lists = shuffled(1)
    first, second = plays(lists), plays(lists)
    assert sorted(first) == sorted(second) == sorted(in_order)
    assert first != in_order
    assert first != second
    # From a cache too, which holds lists in the order of the log.
    again = shuffled(1, tmp_path / "lists")
    assert [plays(again), plays(again)] == [first, second]
    assert plays(shuffled(2)) != first


def test_shuffling_keeps_inputs_and_labels_together(tiny, log_dir: Path, encoder) -> None:
    raw = tiny.raw(tiny.rows(20))
    by_plays = {
        float(key): (ids, click)
        for key, ids, click in zip(
            encoder(raw)["user_plays"],
            encoder(raw)["item_id"].numpy(),
            raw["click"].numpy(),
            strict=True,
        )
    }
    for inputs, labels in dataset(log_dir, "train", encoder, batch_size=3, shuffle_seed=0):
        for key, ids, click in zip(
            inputs["user_plays"], inputs["item_id"].numpy(), labels["click"].numpy(), strict=True
        ):
            expected_ids, expected_click = by_plays[float(key)]
            assert ids[ids > 0].tolist() == expected_ids[expected_ids > 0].tolist()
            assert click[ids > 0].tolist() == expected_click[expected_ids > 0].tolist()


def test_a_cache_gives_the_same_each_time_it_is_read(log_dir, encoder, tmp_path: Path) -> None:
    plain = dataset(log_dir, "train", encoder, batch_size=8)
    cached = dataset(log_dir, "train", encoder, batch_size=8, cache=tmp_path / "lists")
    for _ in range(2):
        for (inputs, labels), (found, marks) in zip(plain, cached, strict=True):
            for one, other in ((inputs, found), (labels, marks)):
                for name, values in one.items():
                    np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert list(tmp_path.iterdir())  # it is kept in files, not in memory


def test_a_split_that_is_not_there(log_dir: Path, tiny) -> None:
    with pytest.raises(LogError, match="holdout"):
        list(raw_batches(log_dir, "holdout", tiny.spec, rows=8))
