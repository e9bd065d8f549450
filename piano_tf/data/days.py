"""A log day by day: a folder for each, itself a log, for a pipeline that runs every day."""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from piano_tf.data.logs import (
    LogSummary,
    Progress,
    read_batches,
    read_spec,
    require_replaceable,
    rows_of,
    split_files,
    write_log,
)
from piano_tf.data.source import Source
from piano_tf.data.splits import ByShare
from piano_tf.errors import LogError, PianoError
from piano_tf.features import SPEC_FILE, SPLITS
from piano_tf.files import replacing, require_room

_SECONDS = 86_400


def write_days(
    log_dir: Path,
    output: Path,
    rule: ByShare,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[dt.date, LogSummary]:
    """Writes the lists of a log to `output/YYYY-MM-DD`, each day (UTC) cut in time for itself.

    A log of tomorrow alone adds tomorrow to the days that are there. On a fault no day is written.

    Args:
      log_dir: A log.
      output: Folder of days; it has their one feature spec too.
      rule: Where to cut each day.
      overwrite: Whether days that are there already may be replaced.
      progress: Called with the number of lists after each batch written.

    Returns:
      Day -> its lists, in order.

    Raises:
      LogError: The log, or a day of it, breaks the contract, or has other columns than the days
        that are there.
      PianoError: A day is there already, or has too few lists to be cut.
    """
    log_dir, output = Path(log_dir), Path(output)
    spec = read_spec(log_dir)
    require_room(output)
    _require_same_columns(output, log_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".days.", dir=output) as scratch:
        made, replaced = Path(scratch) / "made", Path(scratch) / "replaced"
        replaced.mkdir()
        staged = _staged(log_dir, Path(scratch))
        for day in staged:
            require_replaceable(output / str(day), overwrite=overwrite)
        summaries = {}
        for day, file in staged.items():
            source = Source(spec, read_batches([file]), rows_of(file))
            try:
                summaries[day] = write_log(source, made / str(day), rule, progress=progress)
            except PianoError as error:
                raise PianoError(f"day {day}: {error}") from error
        with replacing(output / SPEC_FILE) as partial:
            partial.write_text(spec.model_dump_json(indent=2) + "\n")
        for day in summaries:
            if (output / str(day)).exists():
                (output / str(day)).rename(replaced / str(day))
            (made / str(day)).rename(output / str(day))
    return summaries


def days_in(folder: Path) -> list[dt.date]:
    """The days of a folder that `write_days` filled, in order; none where it is something else."""
    found = []
    for path in Path(folder).glob("????-??-??"):
        with contextlib.suppress(ValueError):
            found.append(dt.date.fromisoformat(path.name))
    return sorted(found)


def _require_same_columns(output: Path, log_dir: Path) -> None:
    there = output / SPEC_FILE
    if there.exists() and read_spec(output) != read_spec(log_dir):
        raise LogError(
            f"says other columns than {there}; expected the same for all days, or another output",
            source=str(log_dir / SPEC_FILE),
        )


def _staged(log_dir: Path, scratch: Path) -> dict[dt.date, Path]:
    """One file for each day, of all splits; day -> file, in order."""
    files: dict[int, Path] = {}
    with contextlib.ExitStack() as stack:
        writers: dict[int, pq.ParquetWriter] = {}
        for day, rows in _by_day(log_dir):
            if day not in writers:
                files[day] = scratch / f"{day}.parquet"
                writers[day] = stack.enter_context(pq.ParquetWriter(files[day], rows.schema))
            writers[day].write_batch(rows)
    return {
        dt.date(1970, 1, 1) + dt.timedelta(days=day): file for day, file in sorted(files.items())
    }


def _by_day(log_dir: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    for split in SPLITS:
        for batch in read_batches(split_files(log_dir, split)):
            day = batch.column("timestamp").to_numpy() // _SECONDS
            for one in np.unique(day).tolist():
                yield one, batch.take(pa.array(np.flatnonzero(day == one)))
