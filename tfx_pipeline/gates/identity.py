"""Whether ids still belong to their features: the one thing that no statistic of a column shows.

Where ids are shuffled against the rest of their rows, every column's own distribution stays as it
was. But two rows with the same id no longer agree in what they say of it. For a feature of
identified things, with n rows of an id and c of them with one value of the feature,

  agreement = sum of c (c - 1) / sum of n (n - 1)    two rows of an id say the same
  chance    = sum of p^2                             any two rows say the same
  identity  = (agreement - chance) / (1 - chance)

is 1 for a feature that never changes, and 0 in expectation after a shuffle. (Cohen's kappa between
two rows of the same id; that it is the measure for this is ours.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from piano_tf.data.logs import read_columns
from piano_tf.features import Axis, FeatureSpec

_IDS = {"item": "item_id", "user": "user_id"}
_COUNT = "count"
_BATCHES_AT_ONCE = 32


def described(features: FeatureSpec) -> Iterator[tuple[str, str]]:
    """Pairs of an id's column and one that describes it: string features of items and of users."""
    for column in features.columns(labels=False):
        kind = column.table.partition("_")[0]
        if (
            column.type == "string"
            and column.axis is not Axis.HISTORY
            and kind in _IDS
            and column.name != _IDS[kind]
        ):
            yield _IDS[kind], column.name


def identity(log_dir: Path, split: str, id_column: str, feature: str) -> float | None:
    """How far rows with the same id agree in a feature, 0 as by chance and 1 always.

    Args:
      log_dir: A log; memory grows with its distinct pairs of id and value alone.
      split: Which part.
      id_column, feature: Two string columns along the same axis.

    Returns:
      None where nothing can be said: no id comes twice, or the feature has a single value.
    """
    counts = _pairs(log_dir, split, id_column, feature)
    pairs = counts[_COUNT].to_numpy().astype(float)
    per_id = _total(counts, id_column)
    per_value = _total(counts, feature)
    repeats = (per_id * (per_id - 1)).sum()
    chance = ((per_value / pairs.sum()) ** 2).sum()
    if repeats == 0 or chance == 1:
        return None
    agreement = (pairs * (pairs - 1)).sum() / repeats
    return float((agreement - chance) / (1 - chance))


def _total(counts: pa.Table, column: str) -> np.ndarray:
    return counts.group_by(column).aggregate([(_COUNT, "sum")])[f"{_COUNT}_sum"].to_numpy() * 1.0


def _pairs(log_dir: Path, split: str, id_column: str, feature: str) -> pa.Table:
    """Each distinct pair of values, with how often it comes."""
    names = [id_column, feature]
    parts: list[pa.Table] = []
    for batch in read_columns(log_dir, split, names):
        columns = [_flat(batch.column(name)) for name in names]
        ones = pa.array([1] * len(columns[0]), pa.int64())
        parts.append(pa.table([*columns, ones], names=[*names, _COUNT]))
        if len(parts) == _BATCHES_AT_ONCE:
            parts = [_merged(parts, names)]
    return _merged(parts, names)


def _flat(column: pa.Array) -> pa.Array:
    values = pc.list_flatten(column) if pa.types.is_nested(column.type) else column
    return values.cast(pa.string())


def _merged(parts: list[pa.Table], names: list[str]) -> pa.Table:
    summed = pa.concat_tables(parts).group_by(names).aggregate([(_COUNT, "sum")])
    return summed.rename_columns(
        [_COUNT if name == f"{_COUNT}_sum" else name for name in summed.column_names]
    )
