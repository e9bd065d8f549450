"""TFDV's statistics of a log without Beam, and logs that someone has spoilt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from piano_tf.data.logs import read_spec, split_files
from piano_tf.features import SPLITS
from tfx_pipeline.configs import DataLimits
from tfx_pipeline.gates.data import find
from tfx_pipeline.gates.findings import Finding
from tfx_pipeline.schema import schema_file

Rows = list[dict[str, Any]]


def statistics(log_dir: Path, split: str) -> statistics_pb2.DatasetFeatureStatisticsList:
    """As StatisticsGen's, over examples as ExampleGen writes them."""
    lists = split_table(log_dir, split)
    columns = {}
    for name in lists.column_names:
        values = [one if isinstance(one, list) else [one] for one in lists[name].to_pylist()]
        value_type = getattr(lists.schema.field(name).type, "value_type", lists[name].type)
        columns[name] = pa.array([one or None for one in values], pa.list_(value_type))
    options = tfdv.StatsOptions(num_top_values=1000)
    return generate_statistics_in_memory(pa.RecordBatch.from_pydict(columns), options)


def findings(
    log_dir: Path,
    *,
    before: Path | None = None,
    limits: DataLimits | None = None,
    own_schema: Path | None = None,
) -> list[Finding]:
    """What the data gate finds in a log, after a log that was accepted if there was one."""
    splits = {split: statistics(log_dir, split) for split in SPLITS}
    text = schema_file(read_spec(log_dir), log_dir / "schemas", own_schema).read_text()
    schema = text_format.Parse(text, schema_pb2.Schema())
    anomalies = {split: tfdv.validate_statistics(splits[split], schema) for split in SPLITS}
    last = statistics(before, "train") if before else None
    return find(splits, last, schema, anomalies, log_dir, limits or DataLimits())


def split_table(log_dir: Path, split: str) -> pa.Table:
    """All lists of a split."""
    return pa.concat_tables([pq.read_table(file) for file in split_files(log_dir, split)])


def rewrite(log_dir: Path, split: str, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Puts a split into one file, changed; returns the file."""
    changed = change(split_table(log_dir, split))
    first, *others = split_files(log_dir, split)
    for file in others:
        file.unlink()
    pq.write_table(changed, first)
    return first


def spoilt(logs: Path, folder: Path, split: str, change: Callable[[Rows], None]) -> Path:
    """A copy of a log in which the rows of one split were changed in place."""

    def changed(lists: pa.Table) -> pa.Table:
        rows = lists.to_pylist()
        change(rows)
        return pa.Table.from_pylist(rows, schema=lists.schema)

    shutil.copytree(logs, folder)
    rewrite(folder, split, changed)
    return folder


def spoilt_throughout(logs: Path, folder: Path, change: Callable[[Rows], None]) -> Path:
    """A copy of a log in which every split was changed, so that they differ no more than before."""
    for split in SPLITS:
        logs = spoilt(logs, folder / split, split, change)
    return logs


def shuffle_items(rows: Rows, column: str = "item_id") -> None:
    """The ids of a column, rotated by a prime against everything else in their rows."""
    ids = [item for row in rows for item in row[column]]
    ids = iter(ids[997 % len(ids) :] + ids[: 997 % len(ids)])
    for row in rows:
        row[column] = [next(ids) for _ in row[column]]


def flip_labels(rows: Rows) -> None:
    """Clicked is not clicked, and the reverse; nothing is bought, or the contract would break."""
    for row in rows:
        row["click"] = [1 - click for click in row["click"]]
        row["conversion"] = [0] * len(row["click"])


def flip_conversions(rows: Rows) -> None:
    """Of what was clicked, bought is not bought, and the reverse: the contract has no objection."""
    for row in rows:
        labels = zip(row["click"], row["conversion"], strict=True)
        row["conversion"] = [click - conversion for click, conversion in labels]


def renamed(lists: pa.Table) -> pa.Table:
    """A column has another name."""
    names = ["item_genres" if name == "item_genre" else name for name in lists.column_names]
    return lists.rename_columns(names)


def retyped(lists: pa.Table) -> pa.Table:
    """A column of numbers is one of text."""
    texts = [[str(one) for one in row] for row in lists["item_age"].to_pylist()]
    place = lists.column_names.index("item_age")
    return lists.set_column(place, "item_age", pa.array(texts, pa.list_(pa.string())))


def cut_off(log_dir: Path, split: str) -> Path:
    """Takes the end of a file away; returns the file."""
    file = split_files(log_dir, split)[0]
    file.write_bytes(file.read_bytes()[:-100])
    return file
