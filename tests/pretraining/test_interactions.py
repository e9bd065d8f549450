"""Which interactions encoded lists tell, collected again one at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.config import EncodingConfig, PretrainingConfig
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.pretraining import Interactions, interactions_of
from piano_tf.training import EncodedLog

Found = list[tuple[int, int, tuple[int, ...]]]


def told(lists: tf.data.Dataset) -> Found:
    """(user, item, tokens) of every history entry and every conversion, in order."""
    found = set()
    for inputs, labels in lists.unbatch().as_numpy_iterator():
        user = int(inputs["user_id"])
        for item, query in zip(inputs["history_item_id"], inputs["history_query"], strict=True):
            if item != 0:
                found.add((user, int(item), tuple(map(int, query))))
        for item, bought in zip(inputs["item_id"], labels["conversion"], strict=True):
            if bought:
                found.add((user, int(item), tuple(map(int, inputs["query"]))))
    return sorted(found)


def listed(interactions: Interactions) -> Found:
    rows = zip(interactions.user, interactions.item, interactions.query, strict=True)
    return [(int(user), int(item), tuple(map(int, query))) for user, item, query in rows]


@pytest.fixture(scope="module")
def train(log_dir: Path, encoder: Encoder) -> tf.data.Dataset:
    return dataset(log_dir, "train", encoder, batch_size=6).cache()


def test_every_history_entry_and_conversion_is_one(train: tf.data.Dataset) -> None:
    found = interactions_of(train)
    assert listed(found) == told(train)
    assert len(found) == len(told(train)) > 20
    assert found.query.shape == (len(found), 3)


def test_what_is_clicked_only_is_none(train: tf.data.Dataset) -> None:
    """It stands in the listener's later histories, if they came again."""
    shown = train.map(
        lambda inputs, labels: ({**inputs}, {**labels, "conversion": labels["click"]})
    )
    assert len(interactions_of(shown)) > len(interactions_of(train))


def test_each_counts_once_however_often_and_in_whatever_order_it_is_told(train) -> None:
    once = interactions_of(train)
    for lists in (train.repeat(70), train.shuffle(10, seed=1), train.unbatch().batch(1)):
        found = interactions_of(lists)
        for field in ("user", "query", "item"):
            np.testing.assert_array_equal(getattr(found, field), getattr(once, field))


def test_histories_may_all_be_empty(tiny, encoder: Encoder) -> None:
    rows = [tiny.row(number, history=0) for number in range(4)]
    raw = tiny.raw(rows)
    inputs = encoder(raw)
    for labels in (tf.cast(raw["conversion"], tf.float32), tf.zeros(raw["conversion"].shape)):
        found = interactions_of([(inputs, {"conversion": labels})])
        assert len(found) == np.count_nonzero(labels)


def test_where_chooses() -> None:
    whole = Interactions(np.array([1, 2]), np.array([[3, 0], [4, 5]]), np.array([6, 7]))
    assert listed(whole.where(np.array([False, True]))) == [(2, 7, (4, 5))]


def test_later_splits_are_never_read(log_dir: Path, tmp_path: Path) -> None:
    """Vectors of a log are the same without its validation and test splits."""
    encoding = EncodingConfig(query_length=3, history_length=4, oov_buckets=2)
    config = PretrainingConfig(width=4, folds=2)
    without = tmp_path / "log"
    shutil.copytree(log_dir, without)
    for split in ("validation", "test"):
        shutil.rmtree(without / split)
    found = []
    for folder in (log_dir, without):
        with EncodedLog(folder, encoding) as log:
            found.append(log.vectors(config))
    for name, table in found[0].items():
        np.testing.assert_array_equal(table, found[1][name], err_msg=name)
        assert np.any(table), name
