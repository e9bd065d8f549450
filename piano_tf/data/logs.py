"""A log on disk: Parquet files of shown lists in `train/`, `validation/` and `test/`, and its spec.

Lists pass through a batch at a time, so that memory does not grow with the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from piano_tf.data.list_index import ListIndex
from piano_tf.data.source import Source
from piano_tf.data.splits import Cuts, SplitRule, require_all
from piano_tf.data.validation import checked
from piano_tf.errors import LogError, PianoError
from piano_tf.features import SPEC_FILE, SPLITS, FeatureSpec
from piano_tf.files import require_place_for, whole_folder

_BATCH_ROWS = 2048
_PART = "part-00000.parquet"

Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class LogSummary:
    """What was written or checked.

    Attributes:
      lists: Split -> number of lists.
    """

    lists: dict[str, int]


def read_spec(log_dir: Path) -> FeatureSpec:
    """The feature spec beside the splits of a log.

    Raises:
      LogError: There is no such folder.
      ConfigError: It holds no feature spec, or a wrong one.
    """
    if not Path(log_dir).is_dir():
        raise LogError("no such folder; expected one that `piano logs` wrote", source=str(log_dir))
    return FeatureSpec.load(Path(log_dir) / SPEC_FILE)


def split_files(log_dir: Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order.

    Raises:
      LogError: There are none.
    """
    files = sorted((Path(log_dir) / split).glob("*.parquet"))
    if not files:
        raise LogError(
            "expected *.parquet files, as in a log that `piano logs` wrote",
            source=str(Path(log_dir) / split),
        )
    return files


def rows_of(file: Path) -> int:
    """How many lists a Parquet file says it has.

    Raises:
      LogError: It is not Parquet, or truncated.
    """
    with _as_parquet(file):
        return pq.read_metadata(file).num_rows


def read_batches(
    files: Sequence[Path], *, rows: int = _BATCH_ROWS, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Reads Parquet files a batch at a time.

    Args:
      files: In the order in which to read.
      rows: At most this many lists a batch.
      columns: What to read of them; all unless given.

    Raises:
      LogError: A file is not Parquet, or truncated, or lacks a column.
    """
    for file in files:
        with _as_parquet(file), pq.ParquetFile(file) as parquet:
            for name in columns or ():
                if name not in parquet.schema_arrow.names:
                    raise LogError("missing", column=name, source=str(file))
            yield from parquet.iter_batches(batch_size=rows, columns=columns)


@contextlib.contextmanager
def _as_parquet(file: Path) -> Iterator[None]:
    """What cannot be read within is a fault of the file."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(f"cannot be read as Parquet ({error})", source=str(file)) from error


def read_columns(log_dir: Path, split: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a split, a batch at a time.

    Raises:
      LogError: A file is missing, is not Parquet or lacks a column.
    """
    names = list(names)
    for batch in read_batches(split_files(log_dir, split), columns=names):
        yield pa.RecordBatch.from_arrays([batch[name] for name in names], names=names)


def find_list(log_dir: Path, split: str, list_id: str | None = None) -> dict[str, Any]:
    """One shown list of a log.

    Args:
      log_dir: A folder written by `piano logs`.
      split: `train`, `validation` or `test`.
      list_id: Which; by default the first with a history, else the first.

    Returns:
      Column name -> value, as plain Python.

    Raises:
      LogError: There is no such list.
    """
    first: dict[str, Any] | None = None
    for batch in read_batches(split_files(log_dir, split)):
        lists = pa.Table.from_batches([batch])
        if list_id is None:
            wanted = pc.greater(pc.list_value_length(lists["history_item_id"]), 0)
        else:
            wanted = pc.equal(lists["list_id"], list_id)
        if found := lists.filter(wanted).slice(0, 1).to_pylist():
            return found[0]
        first = first or lists.slice(0, 1).to_pylist()[0]
    if list_id is None and first is not None:
        return first
    raise LogError(f"has no list {list_id!r}", column="list_id", source=str(Path(log_dir) / split))


def require_replaceable(output: Path, *, overwrite: bool) -> None:
    """Finds out, before long work, whether a log may be made at `output`.

    Args:
      output: Folder to make.
      overwrite: Whether a log that is there may be replaced.

    Raises:
      PianoError: It may not, or there is something else.
    """
    require_place_for("log", (SPEC_FILE, *SPLITS), output, overwrite=overwrite)


def write_log(
    source: Source,
    output: Path,
    rule: SplitRule,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LogSummary:
    """Checks, splits by time and writes lists; on any fault nothing is left at `output`.

    Args:
      source: The lists.
      output: Folder to make.
      rule: Where to cut.
      overwrite: Whether an existing log at `output` may be replaced.
      progress: Called with the number of lists after each batch taken in.

    Raises:
      LogError: A list breaks the contract.
      PianoError: `output` exists, or a split would be empty.
    """
    output = Path(output)
    require_replaceable(output, overwrite=overwrite)
    with whole_folder(output, replace=overwrite) as partial:
        counts = _write_splits(source, partial, rule, progress)
        require_all(counts)
        (partial / SPEC_FILE).write_text(source.spec.model_dump_json(indent=2) + "\n")
    return LogSummary(counts)


def _write_splits(
    source: Source, folder: Path, rule: SplitRule, progress: Progress | None
) -> dict[str, int]:
    """Two passes: where to cut by share is known only when every list has been seen."""
    schema = source.spec.arrow_schema
    staged = folder / "staged.parquet"
    index_file = folder / "lists.sqlite"
    with ListIndex(index_file) as index:
        with pq.ParquetWriter(staged, schema) as writer:
            for batch in checked(source.batches, source.spec):
                index.add(batch)
                writer.write_batch(batch)
                if progress is not None:
                    progress(batch.num_rows)
        if not len(index):
            raise PianoError("the source has no lists")
        cuts = rule.cuts(index)

    writers = {}
    for split in SPLITS:
        (folder / split).mkdir()
        writers[split] = pq.ParquetWriter(folder / split / _PART, schema)
    counts = dict.fromkeys(SPLITS, 0)
    for batch in read_batches([staged]):
        for split, part in _cut(batch, cuts):
            writers[split].write_batch(part)
            counts[split] += part.num_rows
    for writer in writers.values():
        writer.close()
    staged.unlink()
    index_file.unlink()
    return counts


def _cut(batch: pa.RecordBatch, cuts: Cuts) -> Iterator[tuple[str, pa.RecordBatch]]:
    where = cuts.split_of(batch.column("timestamp").to_numpy())
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero(where == number)
        if rows.size:
            yield split, batch.take(pa.array(rows))


def check_log(log_dir: Path) -> LogSummary:
    """Checks a whole log, as written by anyone: every list, ids across splits, and the cut in time.

    Raises:
      LogError: At the first fault.
    """
    log_dir = Path(log_dir)
    spec = read_spec(log_dir)
    counts = dict.fromkeys(SPLITS, 0)
    latest: int | None = None
    with tempfile.TemporaryDirectory() as scratch, ListIndex(Path(scratch) / "lists") as index:
        for split in SPLITS:
            first, last = None, None
            for file in split_files(log_dir, split):
                row = 0
                for batch in checked(read_batches([file]), spec, source=str(file)):
                    index.add(batch, first_row=row, source=str(file))
                    times = batch.column("timestamp").to_numpy()
                    first = times.min() if first is None else min(first, times.min())
                    last = times.max() if last is None else max(last, times.max())
                    row += batch.num_rows
                counts[split] += row
            if latest is not None and first is not None and first <= latest:
                raise LogError(
                    f"got a list at {first} s, expected all lists later than those of the split "
                    f"before it (until {latest} s)",
                    column="timestamp",
                    source=str(log_dir / split),
                )
            latest = last if last is not None else latest
    require_all(counts)
    return LogSummary(counts)
