"""What ExampleGen writes, and how training reads it again: every list once, mixed, and alike."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tfx.components.example_gen.utils import dict_to_example

from piano_tf.config import EncodingConfig
from piano_tf.data.logs import read_batches, read_spec, split_files
from piano_tf.epochs import Position, run_epochs
from tfx_pipeline import ingestion, transform
from tfx_pipeline.ingestion import write_examples
from tfx_pipeline.transform import EncodingSpec, encoded_dataset


def features_of(example: tf.train.Example) -> dict[str, list[Any]]:
    """Name -> values; a feature without any is as good as none."""
    found = {}
    for name, feature in example.features.feature.items():
        if kind := feature.WhichOneof("kind"):
            found[name] = list(getattr(feature, kind).value)
    return {name: values for name, values in found.items() if values}


def examples_in(folder: Path) -> list[list[dict[str, list[Any]]]]:
    """Those of each file."""
    return [
        [
            features_of(tf.train.Example.FromString(record))
            for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()
        ]
        for file in sorted(folder.iterdir())
    ]


def list_id_of(example: dict[str, list[Any]]) -> bytes:
    return example["list_id"][0]


# Where a scalar is "" or 0, which an example leaves out.
NOTHING = {
    "nowhere": [],
    "first": [0],
    "last": [5],
    "in the middle": [1, 3],
    "side by side": [2, 3],
    "at both ends, two by two": [0, 1, 4, 5],
    "everywhere": [0, 1, 2, 3, 4, 5],
}


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_examples_are_those_of_tfx(tiny, tmp_path: Path, nothing: list[int]) -> None:
    rows = tiny.rows(7)[1:]
    for number in nothing:
        empty = {"query": "", "user_country": "", "user_plays": 0.0, "context_hour": 0.0}
        rows[number] |= {"timestamp": 0, **empty}
    file = tmp_path / "lists.parquet"
    pq.write_table(pa.Table.from_batches([tiny.batch(rows)]), file)
    write_examples(str(file), str(tmp_path / "examples"), spec=tiny.spec)
    (found,) = examples_in(tmp_path / "examples")
    (batch,) = read_batches([file])
    expected = [features_of(dict_to_example(row)) for row in batch.to_pylist()]
    assert sorted(found, key=list_id_of) == sorted(expected, key=list_id_of)


def test_lists_are_dealt_out_to_files_of_all_times(
    log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "SHUFFLED_AT_ONCE", 6)  # 20 lists
    (file,) = split_files(log_dir, "train")
    times = [row["timestamp"] for batch in read_batches([file]) for row in batch.to_pylist()]
    for folder in ("first", "again"):
        write_examples(str(file), str(tmp_path / folder), spec=read_spec(log_dir))
    found = examples_in(tmp_path / "first")
    assert found == examples_in(tmp_path / "again")
    assert [len(examples) for examples in found] == [len(times) // 4] * 4
    # 0, which an example leaves out, is the first list's.
    dealt = [[example.get("timestamp", [0])[0] for example in examples] for examples in found]
    assert sorted(time for part in dealt for time in part) == sorted(times)
    middle = sorted(times)[len(times) // 2]
    assert all(min(part) < middle < max(part) for part in dealt)
    assert all(part != sorted(part) for part in dealt)


FILES, LISTS = 4, 50

Made = Callable[..., tf.data.Dataset]
"""A dataset of files that were written before, shuffled as `encoded_dataset`'s options say."""


def write_numbers(file: Path, numbers: Iterable[int]) -> None:
    """Transformed examples, each with its number for an item."""
    with tf.io.TFRecordWriter(str(file), "GZIP") as writer:
        for number in numbers:
            row = {"item_id": [number], "click": [1], "conversion": [1]}
            writer.write(dict_to_example(row).SerializeToString())


def numbers_in(batch: tuple[dict[str, tf.Tensor], Any]) -> list[int]:
    return batch[0]["item_id"].numpy().ravel().tolist()


def numbers_of(batches: tf.data.Dataset) -> list[int]:
    return [number for batch in batches for number in numbers_in(batch)]


@pytest.fixture
def numbered(log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Of the files in `transformed`."""
    monkeypatch.setattr(transform, "SHUFFLED_AT_ONCE", 20)
    (tmp_path / "transformed").mkdir()
    several = tf.io.VarLenFeature(tf.int64)
    output = types.SimpleNamespace(
        transformed_feature_spec=lambda: dict.fromkeys(("item_id", "click", "conversion"), several)
    )
    spec = EncodingSpec(features=read_spec(log_dir), encoding=EncodingConfig())

    patterns = [str(tmp_path / "transformed" / "*")]

    def made(**options: Any) -> tf.data.Dataset:
        tf.keras.utils.set_random_seed(0)
        return encoded_dataset(patterns, output, spec, batch_size=8, **options)

    return made


@pytest.fixture
def four_files(numbered: Made, tmp_path: Path) -> Made:
    """4 files of 50 lists: list n of file f is 50 f + n + 1."""
    for file in range(FILES):
        numbers = range(LISTS * file + 1, LISTS * (file + 1) + 1)
        write_numbers(tmp_path / "transformed" / f"{file}.gz", numbers)
    return numbered


def test_without_a_seed_lists_come_in_the_order_of_the_files(four_files: Made) -> None:
    assert numbers_of(four_files()) == [*range(1, FILES * LISTS + 1)]


WAYS = {"from files": False, "from memory": True}


@pytest.mark.parametrize("cache", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("seed", [0, 3])
def test_an_epoch_is_every_list_once_in_an_order_of_its_own(
    four_files: Made, seed: int, cache: bool
) -> None:
    batches, again = (four_files(shuffle_seed=seed, cache=cache) for _ in range(2))
    orders = [numbers_of(batches) for _ in range(3)]
    assert all(sorted(order) == [*range(1, FILES * LISTS + 1)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [numbers_of(again) for _ in range(3)] == orders
    # The buffer holds fewer lists than a file.
    assert {(item - 1) // LISTS for item in orders[0][:16]} == {*range(FILES)}


class Reader:
    """In a model's place: keeps the numbers of the batches that it is trained on.

    Attributes:
      seen: Batch by batch, epochs one after the other.
    """

    stop_training = False

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def make_train_function(self) -> Callable[[Iterator[Any]], dict[str, float]]:
        def step(batches: Iterator[Any]) -> dict[str, float]:
            self.seen.append(numbers_in(next(batches)))
            return {"loss": 0.0}

        return step

    def make_test_function(self) -> Callable[[Iterator[Any]], dict[str, float]]:
        return lambda batches: {"loss": float(len(next(batches)))}

    def reset_metrics(self) -> None:
        pass


@pytest.mark.parametrize("cache", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("passes", [0, 1], ids=["alone", "after pre-training"])
def test_training_that_goes_on_reads_what_it_would_have_read(
    four_files: Made, monkeypatch: pytest.MonkeyPatch, passes: int, cache: bool
) -> None:
    monkeypatch.setattr(transform, "_FILES_AT_ONCE", 2)  # of 4: their order decides

    def batches_read(start: Position) -> list[list[int]]:
        train, reader = four_files(shuffle_seed=0, cache=cache), Reader()
        for _ in range(passes):
            numbers_of(train)
        run_epochs(
            reader, train, train.take(0), epochs=3, strategy=tf.distribute.get_strategy(),
            callbacks=[], start=start, verbose=0,
        )  # fmt: skip
        return reader.seen

    straight, steps = batches_read(Position()), FILES * LISTS // 8
    assert len(straight) == 3 * steps
    for position in (Position(0, 7), Position(1, 3), Position(2, 1)):
        assert batches_read(position) == straight[position.epoch * steps + position.step :]


def test_a_batch_of_several_days_is_of_all_times_of_a_day(
    tiny, numbered: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transform reads a day's files one after the other, and writes one."""
    monkeypatch.setattr(ingestion, "SHUFFLED_AT_ONCE", 60)
    day, orders = 240, []
    for number in range(4):
        file = tmp_path / f"{number}.parquet"
        rows = tiny.rows(4 * day)[number * day : (number + 1) * day]
        pq.write_table(pa.Table.from_batches([tiny.batch(rows)]), file)
        write_examples(str(file), str(tmp_path / str(number)), spec=tiny.spec)
        orders.append(
            [
                example.get("timestamp", [0])[0] % day
                for part in examples_in(tmp_path / str(number))
                for example in part
            ]
        )
        assert sorted(orders[-1]) == [*range(day)]
        write_numbers(tmp_path / "transformed" / f"{number}.gz", orders[-1])
    assert len({tuple(order) for order in orders}) == 4
    batches = numbered(shuffle_seed=0).unbatch().batch(32)
    means = [np.mean(numbers_in(batch)) for batch in batches]
    assert len(means) == 4 * day // 32
    # A mean of 32 times drawn from a whole day strays from the middle by 12; this is four of those.
    assert np.abs(np.array(means) - day / 2).max() < 4 * day / np.sqrt(12 * 32)
