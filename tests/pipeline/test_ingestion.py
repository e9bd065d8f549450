"""What ExampleGen writes, and how training reads it again: every list once, mixed, and alike."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tfx.components.example_gen.utils import dict_to_example

from piano_tf.config import EncodingConfig
from piano_tf.data.logs import read_batches, read_spec, split_files
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


def test_examples_are_those_of_tfx(log_dir: Path, tmp_path: Path) -> None:
    (file,) = split_files(log_dir, "train")
    write_examples(str(file), str(tmp_path), spec=read_spec(log_dir))
    (found,) = examples_in(tmp_path)
    (batch,) = read_batches([file])
    assert found == [features_of(dict_to_example(row)) for row in batch.to_pylist()]


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


FILES, LISTS = 4, 50


@pytest.fixture
def read(
    log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[], list[int]]]:
    """Makes a dataset of 4 files of 50 lists, and gives what an epoch of it reads, list by list.

    List n of file f is 50 f + n + 1.
    """
    monkeypatch.setattr(transform, "SHUFFLED_AT_ONCE", 20)
    for file in range(FILES):
        with tf.io.TFRecordWriter(str(tmp_path / f"{file}.gz"), "GZIP") as writer:
            for number in range(LISTS):
                row = {"item_id": [LISTS * file + number + 1], "click": [1], "conversion": [1]}
                writer.write(dict_to_example(row).SerializeToString())
    several = tf.io.VarLenFeature(tf.int64)
    output = types.SimpleNamespace(
        transformed_feature_spec=lambda: dict.fromkeys(("item_id", "click", "conversion"), several)
    )
    spec = EncodingSpec(features=read_spec(log_dir), encoding=EncodingConfig())

    def made(**options: Any) -> Callable[[], list[int]]:
        tf.keras.utils.set_random_seed(0)
        batches = encoded_dataset([str(tmp_path / "*")], output, spec, batch_size=8, **options)
        return lambda: [
            int(item) for inputs, _ in batches for item in inputs["item_id"].numpy().ravel()
        ]

    return made


def test_without_a_seed_lists_come_in_the_order_of_the_files(read) -> None:
    assert read()() == [*range(1, FILES * LISTS + 1)]


@pytest.mark.parametrize("cache", [False, True], ids=["from files", "from memory"])
def test_an_epoch_is_every_list_once_in_an_order_of_its_own(read, cache: bool) -> None:
    epoch, again = (read(shuffle_seed=3, cache=cache) for _ in range(2))
    orders = [epoch() for _ in range(3)]
    assert all(sorted(order) == [*range(1, FILES * LISTS + 1)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [again() for _ in range(3)] == orders
    # The buffer holds fewer lists than a file.
    assert {(item - 1) // LISTS for item in orders[0][:16]} == {*range(FILES)}
