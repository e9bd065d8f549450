"""Adapter for a team's own logs: Parquet files that already have the contract's columns."""

from __future__ import annotations

from pathlib import Path

from piano_tf.data.logs import read_batches, rows_of
from piano_tf.data.source import Source
from piano_tf.data.validation import checked
from piano_tf.errors import LogError
from piano_tf.features import SPEC_FILE, FeatureSpec


def read(input_dir: Path) -> Source:
    """Reads every `*.parquet` of a folder, with the feature spec `features.json` beside them.

    Args:
      input_dir: The folder; its files are read in the order of their names.

    Raises:
      LogError: There are no files, or one is not Parquet; once read, a list breaks the contract.
      ConfigError: The spec is missing or wrong.
    """
    input_dir = Path(input_dir)
    if not input_dir.is_dir():
        raise LogError(
            "no such folder; expected *.parquet and features.json in it", source=str(input_dir)
        )
    spec = FeatureSpec.load(input_dir / SPEC_FILE)
    files = sorted(input_dir.glob("*.parquet"))
    if not files:
        raise LogError("expected *.parquet files", source=str(input_dir))
    total = sum(map(rows_of, files))
    if not total:
        raise LogError("has no lists", source=str(input_dir))
    # Checked file by file, so that an error names the file and the row within it.
    batches = (
        batch for file in files for batch in checked(read_batches([file]), spec, source=str(file))
    )
    return Source(spec, batches, total)
