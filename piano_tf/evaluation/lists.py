"""What happened in a split of a log: the truth that predictions are held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from piano_tf.data.counting import COUNT, count_rows
from piano_tf.data.logs import read_columns
from piano_tf.errors import LogError
from piano_tf.features import CLICK, LABELS

_HISTORY = "history_item_id"
_VALUE = "value"


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """L shown lists, padded at the end to the longest, N; the initial order is that of the columns.

    Attributes:
      list_id: [L] strings.
      user_id: [L] strings.
      mask: [L, N] boolean, True = real.
      labels: `click` and `conversion` -> [L, N] boolean, False at padding.
      history_length: [L] int64, entries of the listener's history.
      query_frequency: [L] int64, training lists with the very same query string.
      item_popularity: [L, N] int64, clicks of the item in the training split; 0 at padding.
    """

    list_id: np.ndarray
    user_id: np.ndarray
    mask: np.ndarray
    labels: Mapping[str, np.ndarray]
    history_length: np.ndarray
    query_frequency: np.ndarray
    item_popularity: np.ndarray

    def __len__(self) -> int:
        return len(self.list_id)

    def any(self, label: str) -> np.ndarray:
        """[L] boolean: whether the list has a positive, which is the truth of its list output."""
        return (self.labels[label] & self.mask).any(axis=1)

    def only(self, members: np.ndarray) -> Lists:
        """Those lists where `members` [L] is True."""
        arrays = {
            field.name: getattr(self, field.name)[members]
            for field in dataclasses.fields(self)
            if field.name != "labels"
        }
        return Lists(labels={name: y[members] for name, y in self.labels.items()}, **arrays)


def read_lists(log_dir: Path, split: str) -> Lists:
    """Reads what happened in a split, in the order of the log.

    Query frequency and item popularity are counted in the train split, whichever split is read; a
    list of the train split itself is among those counted.

    Args:
      log_dir: A folder written by `piano logs`.
      split: `train`, `validation` or `test`.

    Raises:
      LogError: A file is missing, is not Parquet or lacks a column; the split has no lists.
    """
    queries, clicked = _counted_in_training(log_dir)
    names = ["list_id", "user_id", "query", "item_id", *LABELS, _HISTORY]
    batches = []
    for batch in read_columns(log_dir, split, names):
        *columns, history = batch.columns
        # Of a history its length alone is kept.
        columns.append(pc.list_value_length(history))
        batches.append(pa.RecordBatch.from_arrays(columns, names=names))
    if not batches:
        raise LogError("has no lists", source=str(Path(log_dir) / split))
    columns = pa.Table.from_batches(batches)
    item_id = columns["item_id"]
    length = pc.list_value_length(item_id).to_numpy()
    mask = np.arange(length.max(initial=0)) < length[:, np.newaxis]
    return Lists(
        list_id=columns["list_id"].to_numpy(),
        user_id=columns["user_id"].to_numpy(),
        mask=mask,
        labels={label: _dense(mask, _flat(columns[label]) == 1) for label in LABELS},
        history_length=columns[_HISTORY].to_numpy().astype(np.int64),
        query_frequency=_looked_up(columns["query"], queries),
        item_popularity=_dense(mask, _looked_up(pc.list_flatten(item_id), clicked)),
    )


def concatenate(parts: Sequence[Lists]) -> Lists:
    """Lists of several logs (the folds of one data set) one after the other, padded to the widest.

    Args:
      parts: At least one.
    """
    width = max(part.mask.shape[1] for part in parts)

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([widened(array, width) for array in arrays])

    return Lists(
        labels={label: joined([part.labels[label] for part in parts]) for label in LABELS},
        **{
            field.name: joined([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Lists)
            if field.name != "labels"
        },
    )


def widened(array: np.ndarray, width: int) -> np.ndarray:
    """[L, N] padded at the end with 0 to [L, width]; [L] as it is."""
    if array.ndim == 1:
        return array
    return np.pad(array, [(0, 0), (0, width - array.shape[1])])


def _counted_in_training(log_dir: Path) -> tuple[pa.Table, pa.Table]:
    """How often each query was asked and each item was clicked, as columns of values and counts."""
    queries = (pa.table([batch["query"]], [_VALUE]) for batch in _of_training(log_dir, "query"))
    clicked = (
        pa.table([batch["item_id"].flatten().filter(pc.equal(batch[CLICK].flatten(), 1))], [_VALUE])
        for batch in _of_training(log_dir, "item_id", CLICK)
    )
    return count_rows(queries), count_rows(clicked)


def _of_training(log_dir: Path, *names: str) -> Iterator[pa.RecordBatch]:
    return read_columns(log_dir, "train", names)


def _looked_up(values: pa.ChunkedArray, counted: pa.Table) -> np.ndarray:
    """The count of each value, 0 where it was never counted."""
    place = pc.index_in(values, value_set=counted[_VALUE].combine_chunks())
    return pc.fill_null(counted[COUNT].take(place), 0).to_numpy()


def _flat(lists: pa.ChunkedArray) -> np.ndarray:
    return pc.list_flatten(lists).to_numpy()


def _dense(mask: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Values of all real items, list after list, as [L, N] with 0 (False) at padding."""
    dense = np.zeros(mask.shape, flat.dtype)
    dense[mask] = flat
    return dense
