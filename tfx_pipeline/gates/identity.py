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

from piano_tf.data.counting import COUNT, count_rows
from piano_tf.data.logs import read_columns
from piano_tf.features import Axis, FeatureSpec

_IDS = {"item": "item_id", "user": "user_id"}


def described(features: FeatureSpec) -> Iterator[tuple[str, str]]:
    """Pairs of an id's column and one that describes it: string features of items and of users.

    A history has columns of items of its own.
    """
    for column in features.columns(labels=False):
        kind = column.table.partition("_")[0]
        if column.type == "string" and kind in _IDS:
            prefix = "history_" if column.axis is Axis.HISTORY else ""
            id_column = prefix + _IDS[kind]
            if column.name != id_column:
                yield id_column, column.name


def identity(log_dir: Path, split: str, id_column: str, feature: str) -> float | None:
    """How far rows with the same id agree in a feature, 0 as by chance and 1 always.

    Args:
      log_dir: A log; memory grows with its distinct pairs of id and value alone.
      split: Which part.
      id_column, feature: Two string columns along the same axis.

    Returns:
      None where nothing can be said: no id comes twice, or the feature has a single value.
    """
    names = [id_column, feature]
    counts = count_rows(
        pa.table([_flat(column) for column in batch.columns], names=names)
        for batch in read_columns(log_dir, split, names)
    )
    pairs = counts[COUNT].to_numpy().astype(float)
    per_id = _total(counts, id_column)
    per_value = _total(counts, feature)
    repeats = (per_id * (per_id - 1)).sum()
    chance = ((per_value / pairs.sum()) ** 2).sum()
    if repeats == 0 or chance == 1:
        return None
    agreement = (pairs * (pairs - 1)).sum() / repeats
    return float((agreement - chance) / (1 - chance))


def _total(counts: pa.Table, column: str) -> np.ndarray:
    return counts.group_by(column).aggregate([(COUNT, "sum")])[f"{COUNT}_sum"].to_numpy() * 1.0


def _flat(column: pa.Array) -> pa.Array:
    values = pc.list_flatten(column) if pa.types.is_nested(column.type) else column
    return values.cast(pa.string())
